"""What runs where the training happens. Heavy imports stay inside functions."""
