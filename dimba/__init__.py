"""dimba fine-tunes language models from job specs, in a container."""

__version__ = "0.1.0"
