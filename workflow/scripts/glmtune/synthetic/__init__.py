"""Synthetic texts: garments, and general questions."""
