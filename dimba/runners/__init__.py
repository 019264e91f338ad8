"""Where a plan runs: behind one small protocol, in a container or as a process of this machine."""
