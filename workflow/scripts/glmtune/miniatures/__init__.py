"""Tiny models with the real architectures."""
