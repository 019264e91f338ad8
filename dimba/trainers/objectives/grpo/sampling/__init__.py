"""What samples the completions of a training step in place of `generate`: continuous batches, or vLLM."""
