"""Linear layers whose float32 products are oneDNN's on a CPU that MKL does not serve well.

torch gives such products to MKL, which leaves AVX-512 unused on AMD's processors: there oneDNN is
twice as fast, and with AVX2 a tenth faster. On Intel's own processors MKL is a little faster
(docs/benchmarks.md).
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# Below this many multiplications the call to oneDNN costs more than it saves.
FEWEST_MULTIPLICATIONS = 1 << 21


class Linear(nn.Linear):
    """An `nn.Linear`, trained or not, with `product`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in) -> (…, out)."""
        return product(input, self.weight, self.bias)


def is_plain(module: nn.Module) -> bool:
    """Return whether the module is nothing but a matrix and perhaps a bias: has no adapter."""
    return type(module) in (nn.Linear, Linear)


def product(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`F.linear`: states (…, in), weight (out, in), bias (out,) -> (…, out)."""
    if not _gains(states, weight):
        return F.linear(states, weight, bias)
    if torch.is_grad_enabled():
        return _Product.apply(states, weight, bias)
    return _onednn(states, weight, bias)


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add to `total` (m, n) the product of `left` (m, k) and `right` (k, n), without gradients."""
    if total.dtype != left.dtype or _gains(left, right.T):
        total += product(left, right.T)
    else:
        total.addmm_(left, right)


class _Product(torch.autograd.Function):
    """oneDNN's operator for inference, with gradients."""

    @staticmethod
    def forward(
        context: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        context.save_for_backward(states, weight)
        return _onednn(states, weight, bias)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight = context.saved_tensors
        gradient = gradients[0].contiguous()
        flat = gradient.flatten(0, -2)
        needs_states, needs_weight, needs_bias = context.needs_input_grad
        return (
            _onednn(gradient, weight.T) if needs_states else None,
            _onednn(flat.T, states.flatten(0, -2).T) if needs_weight else None,
            flat.sum(dim=0) if needs_bias else None,
        )


def _gains(states: torch.Tensor, weight: torch.Tensor) -> bool:
    if not states.device.type == weight.device.type == "cpu":
        return False
    is_large = states.numel() * weight.shape[0] >= FEWEST_MULTIPLICATIONS
    is_float32 = states.dtype == weight.dtype == torch.float32
    return is_large and is_float32 and _suits_onednn() and not torch.is_autocast_enabled("cpu")


@cache
def _suits_onednn() -> bool:
    """Return whether oneDNN should replace MKL: torch has both, and the CPU is not Intel's."""
    cpuinfo = Path("/proc/cpuinfo")
    processor = cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return has_both and "GenuineIntel" not in processor


def _onednn(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    # The operator that torch's own compiler calls; the eager mode has none for dense weights.
    output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return output
