"""Sweeps: runs of one spec with other values, planned together, queued for the GPUs, and compared."""
