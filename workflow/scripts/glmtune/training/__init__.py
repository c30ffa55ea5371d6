"""One training path for every method."""
