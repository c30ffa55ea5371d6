"""DoRA (Liu et al. 2024, arXiv 2402.09353) in a model that only answers.

    y = m / |W + s B A| * (W x + s B A x)        |.|: length of each row

PEFT computes the lengths at every call, from products as large as the weight: that is right while
B and A change. Here they are computed once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class FixedDora(nn.Module):
    """PEFT's DoraLinearLayer for one layer whose m / |W + s B A|, `factor` (out), is known.

    In float32: half precision would round all numbers of a row alike.
    """

    def __init__(self, magnitude: nn.Parameter, factor: torch.Tensor) -> None:
        super().__init__()
        self.weight = magnitude
        self.factor: torch.Tensor
        self.register_buffer("factor", factor, persistent=False)

    def forward(
        self,
        x: torch.Tensor,
        *,
        lora_A: nn.Module,
        lora_B: nn.Module,
        scaling: float,
        base_layer: Any,
        base_result: torch.Tensor,
        adapter_name: str,
    ) -> torch.Tensor:
        """(…, in), with the result of the base (…, out) -> what is added to that."""
        product = base_result if base_layer.bias is None else base_result - base_layer.bias
        return (self.factor - 1) * product + self.factor * scaling * lora_B(lora_A(x))

    def get_weight_norm(
        self, weight: torch.Tensor, lora_weight: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """|weight + scaling * lora_weight|, which PEFT merges with: (out, in) -> (out)."""
        return torch.linalg.norm(weight + scaling * lora_weight, dim=1)


@torch.no_grad()
def fix_dora(model: nn.Module) -> None:
    """Replace the DoRA parts of linear layers, whose adapter is called "default"."""
    from peft.tuners.lora.dora import DoraLinearLayer

    for module in model.modules():
        parts: Any = getattr(module, "lora_magnitude_vector", {})
        if "default" in parts and type(parts["default"]) is DoraLinearLayer:
            parts["default"] = _fixed(module, parts["default"].weight)


def _fixed(layer: Any, magnitude: nn.Parameter) -> FixedDora:
    update = layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
    rows = layer.get_base_layer().weight.float() + layer.scaling["default"] * update
    return FixedDora(magnitude, magnitude / torch.linalg.norm(rows, dim=1))
