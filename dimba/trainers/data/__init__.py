"""From rows to tokens, masks and batches."""
