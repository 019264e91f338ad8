"""The questions of each step, a file a step."""
