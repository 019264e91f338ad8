"""dimba: from a job spec to a fine-tuned checkpoint, in a container."""

__version__ = "0.1.0"
