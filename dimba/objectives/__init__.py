"""Training objectives as values: options, defaults, batch arithmetic. Standard library only."""
