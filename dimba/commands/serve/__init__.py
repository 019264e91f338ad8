"""A trained model behind an OpenAI-compatible interface on 127.0.0.1."""
