"""Models to and from folders."""
