"""Faster pieces of a model, each used only where it is proved equal on the model at hand."""
