"""The architectures as torch modules. Knows nothing about files of a run."""
