"""Architectures of dimba's own, as classes of transformers; imported only where torch is."""
