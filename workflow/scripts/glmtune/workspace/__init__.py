"""The folder of a run, and the two engines that work in it. Imports no torch."""
