"""Faster replacements of parts of a model, each used only if it proves numerically equal on the model at hand."""
