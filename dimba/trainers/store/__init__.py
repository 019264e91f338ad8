"""The store of a run's checkpoints: sent from the job in a process of its own, and brought back. Imports no torch."""
