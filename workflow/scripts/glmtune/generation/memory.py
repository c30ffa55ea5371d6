"""How many rows a device can answer at once: `batch_size: auto`.

From sizes alone, never from what is free at the moment: the same model, prompts and machine always
give the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from glmtune.modeling.kv_cache import BLOCK

MOST_ROWS = 256  # wider products are hardly faster
# Of a GPU's memory, for weights and rows; of RAM, which other steps and programs share.
USABLE_SHARE = {"cuda": 0.8, "cpu": 0.4}
# A row's cache is copied when it grows, layer by layer, and its activations come on top.
ROW_FACTOR = 1.5


def auto_batch_size(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, total_memory: float
) -> int:
    """The rows, from 1 to 256, whose cache fits beside the weights into `total_memory` bytes."""
    tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    longest = max(map(len, prompts), default=0) + max_new_tokens
    row = bytes_of_row(model, longest) * ROW_FACTOR
    usable = USABLE_SHARE[model.device.type] * total_memory - weights
    return max(1, min(MOST_ROWS, int(usable // row)))


def bytes_of_row(model: Any, length: int) -> int:
    """The keys and values of `length` tokens, and the logits of one."""
    shape = model.prefix_shape()
    embeddings = model.get_input_embeddings().weight
    positions = -(-length // BLOCK) * BLOCK
    return (shape.width * positions + len(embeddings)) * embeddings.element_size()
