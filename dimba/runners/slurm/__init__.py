"""Slurm: the plan as a batch script, and the scheduler's commands."""
