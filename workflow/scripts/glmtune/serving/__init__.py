"""Answers to whoever asks: what was trained, over HTTP and in a terminal."""
