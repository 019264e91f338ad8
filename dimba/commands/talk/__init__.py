"""Talking to trained models: one prompt, a chat, or a file of rows."""
