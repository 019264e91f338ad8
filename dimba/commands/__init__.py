"""One use case per module: each gathers facts, acts, and returns a value to render."""
