"""Texts of our own: garments, and general questions."""
