"""The questions, one module per step."""
