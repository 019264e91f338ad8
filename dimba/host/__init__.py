"""What this machine is and has, as plain values."""
