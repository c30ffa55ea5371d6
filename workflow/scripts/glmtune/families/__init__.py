"""Model families: tokenization, templates and configs. Imports no torch."""
