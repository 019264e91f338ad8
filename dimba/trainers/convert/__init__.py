"""The original's masked DIMBA checkpoints, rewritten as models of `dimba.models.dimba`."""
