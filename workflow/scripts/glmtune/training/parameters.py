"""The parameters of a model: how many there are, which are in training, whether they changed."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

VALUES_AT_ONCE = 2**24


def count_parameters(model: nn.Module) -> int:
    """The parameters of a model, a quantized weight counted as whole."""
    stored = sum(parameter.numel() for parameter in model.parameters())
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    # A whole weight adds 0: it has in_features * out_features numbers.
    return stored + sum(m.in_features * m.out_features - m.weight.numel() for m in linears)


def trainable_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """`{name: tensor}` of the weights in training."""
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def abs_sums(model: PreTrainedModel) -> dict[str, float]:
    """A number for each trained weight: training changes it, and it is finite if the weight is.

    Part by part: at the end of a training there may be no room for a copy of the embeddings.
    """
    return {
        name: sum(
            float(part.abs().sum(dtype=torch.float64))
            for part in weight.detach().flatten().split(VALUES_AT_ONCE)
        )
        for name, weight in trainable_state(model).items()
    }
