"""(JobSpec, HostFacts) → LaunchPlan: what would run, and is what runs.

Nothing is imported here. The wizard's looks at the machine import the runners, and with them parts of this, in threads
of their own; threads that meet at a package which waits for its own parts see it half done.
"""
