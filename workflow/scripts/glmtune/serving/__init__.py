"""Trained models answer, over HTTP and in a terminal."""
