"""params.yaml: read, checked, and what each step gets of it."""
