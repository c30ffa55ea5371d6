"""The parameters of a model: how many there are, which are trainable, whether they changed."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from glmtune.training.processes import whole

VALUES_AT_ONCE = 2**24


def count_parameters(model: nn.Module) -> int:
    """The number of parameters of a model, with quantized weights counted at their full size."""
    stored = sum(parameter.numel() for parameter in model.parameters())
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    # A full-precision weight adds 0: it already has in_features * out_features elements.
    return stored + sum(m.in_features * m.out_features - m.weight.numel() for m in linears)


def trainable(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """`{name: weight}` of the trainable weights."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def abs_sums(model: PreTrainedModel) -> dict[str, float]:
    """The absolute sum of each trainable weight; it reveals changes and non-finite values.

    Computed in parts: at the end of a training a copy of the embeddings may not fit into memory.
    """
    sums = {}
    for name, weight in trainable(model).items():
        with whole([weight]):
            parts = weight.detach().flatten().split(VALUES_AT_ONCE)
            sums[name] = sum(float(part.abs().sum(dtype=torch.float64)) for part in parts)
    return sums
