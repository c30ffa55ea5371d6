"""The parameters of a model: how many there are, which are trainable, whether they changed."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

VALUES_AT_ONCE = 2**24


def count_parameters(model: nn.Module) -> int:
    """The number of parameters of a model, with quantized weights counted at their full size."""
    stored = sum(parameter.numel() for parameter in model.parameters())
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    # A full-precision weight adds 0: it already has in_features * out_features elements.
    return stored + sum(m.in_features * m.out_features - m.weight.numel() for m in linears)


def trainable_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """`{name: tensor}` of the trainable weights."""
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def abs_sums(model: PreTrainedModel) -> dict[str, float]:
    """The absolute sum of each trainable weight; it reveals changes and non-finite values.

    Computed in parts: at the end of a training a copy of the embeddings may not fit into memory.
    """
    return {
        name: sum(
            float(part.abs().sum(dtype=torch.float64))
            for part in weight.detach().flatten().split(VALUES_AT_ONCE)
        )
        for name, weight in trainable_state(model).items()
    }
