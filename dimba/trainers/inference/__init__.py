"""Answers of trained models: prompts as in training, tokens one by one or in batches."""
