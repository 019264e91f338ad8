"""Loading, sharding and saving models and checkpoints."""
