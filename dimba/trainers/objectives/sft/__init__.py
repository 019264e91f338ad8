"""Supervised fine-tuning: packed rows, and the loss of their trained tokens."""
