"""The training half of each objective."""
