"""Recipes: what made a run, without the machine that it ran on; compared with a plan before it is launched."""
