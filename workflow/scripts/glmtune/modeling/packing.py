"""Linear layers for inference on a CPU, with weights in the memory order that oneDNN computes in.

A product with a plain matrix first rearranges the matrix, at every call. Rearranged once,
the same product takes a fifth less time (docs/benchmarks.md). The weights are then oneDNN's own:
they answer, but can be neither trained nor saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from glmtune.modeling.linear import Linear

# For smaller matrices, such as a miniature's, the call costs more than the order saves.
FEWEST_ELEMENTS = 1 << 18
# Outputs of a part: those of 256 rows stay in the processor's cache until they have been read.
PART = 4096
USUAL_ROWS = 256  # oneDNN chooses the order for this many rows; it works for any number


class PackedLinear(nn.Module):
    """What `linear` computes; large outputs can be had in parts."""

    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, bias = linear.weight.detach(), linear.bias
        self._starts = range(0, len(weight), PART)
        for start in self._starts:
            packed = _packed(weight[start : start + PART])
            self.register_buffer(f"weight_{start}", packed, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)

    def in_parts(self, states: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """(number of its first output, outputs) of each part."""
        for start in self._starts:
            weight = self.get_buffer(f"weight_{start}")
            bias = None if self.bias is None else self.bias[start : start + PART]
            yield start, torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(…, in) -> (…, out)."""
        outputs = [part for _, part in self.in_parts(states)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def pack_linears(model: nn.Module) -> None:
    """Replace the large linear layers of a float32 model on a CPU; others stay as they are."""
    if not torch.backends.mkldnn.is_available():
        return
    for name, module in list(model.named_modules()):
        # Not the small ones that an adapter adds: PEFT asks them for the type of their weight.
        if type(module) is Linear and _gains(module.weight):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PackedLinear(module))


def _gains(weight: torch.Tensor) -> bool:
    is_large = weight.numel() >= FEWEST_ELEMENTS
    return is_large and weight.device.type == "cpu" and weight.dtype == torch.float32


def _packed(weight: torch.Tensor) -> Any:
    # The pair of operators that torch's own compiler calls for frozen weights; it has no others.
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), USUAL_ROWS)
