"""What may be asked for when tokens are chosen at random; flags, chat and the API share it.

Needs no torch.
"""

COLDEST, HOTTEST = 1e-4, 10.0
"""Temperatures; a lower one is greedy: logits divided by it leave the numbers of float32."""
SMALLEST_TOP_P = 1e-6
"""A smaller one is this one: it keeps the best token alone already."""
SEEDS = 1 << 32
