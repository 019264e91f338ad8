"""Whether a model is better than another one, on rows that it was not trained on."""
