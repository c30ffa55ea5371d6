"""Cross entropy of the positions that have a target, without holding all their logits.

With a vocabulary of 65,000 to 130,000 the logits take most of the memory of a training and, on a
CPU, half of its time. So they are computed a few rows at a time and turned into their gradient in
place.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from glmtune.modeling.linear import add_product, is_plain, product
from glmtune.modeling.precision import working_dtype

ROWS_AT_ONCE = 256
# On a CPU fewer rows, so that their logits stay in its cache.
LOGITS_AT_ONCE = 1 << 23


def mean_target_loss(
    hidden: torch.Tensor,
    head: nn.Module,
    targets: torch.Tensor,
    num_items: torch.Tensor | int | None,
) -> torch.Tensor:
    """The fp32 cross entropy of hidden states (n, hidden), summed and divided by `num_items` or n.

    `num_items` is what transformers' Trainer counts over all batches of one optimizer step.
    """
    if _can_be_chunked(head, working_dtype(hidden)):
        total = _SummedLoss.apply(hidden, head.weight, targets)
    else:
        total = F.cross_entropy(head(hidden).float(), targets, reduction="sum")
    return total / count_items(targets, num_items)


def count_items(targets: torch.Tensor, num_items: torch.Tensor | int | None) -> torch.Tensor | int:
    """The divisor of a summed loss: at least 1, because without targets the sum is 0."""
    if isinstance(num_items, torch.Tensor):
        return num_items.to(targets.device).clamp(min=1)
    return max(targets.numel() if num_items is None else num_items, 1)


def bytes_of_loss(targets: int, head: nn.Module, dtype: torch.dtype) -> int:
    """The memory that `mean_target_loss` takes for `targets` targets when computing in `dtype`."""
    vocab_size, hidden = head.get_parameter("weight").shape
    if not _can_be_chunked(head, dtype):
        # Logits, their fp32 copy, the log-probabilities, and a gradient for each.
        return targets * vocab_size * 2 * (dtype.itemsize + 4 + 4)
    at_once = min(targets, ROWS_AT_ONCE)
    own_type = 0 if dtype is torch.float32 else dtype.itemsize
    # Logits in both dtypes, and the states with their gradient.
    return at_once * vocab_size * (4 + own_type) + targets * hidden * 2 * dtype.itemsize


def _can_be_chunked(head: nn.Module, dtype: torch.dtype) -> bool:
    """Return whether the head is a plain matrix: one with an adapter must be called as a module.

    Not in fp16, where gradients need loss scaling, which is applied after the loss.
    """
    return is_plain(head) and head.bias is None and dtype is not torch.float16


def _rows_at_once(rows: int, vocab_size: int, device: torch.device) -> int:
    """The rows of a block, such that all blocks are about as large."""
    most = ROWS_AT_ONCE
    if device.type == "cpu":
        most = min(most, max(1, LOGITS_AT_ONCE // vocab_size))
    return math.ceil(rows / math.ceil(rows / most)) if rows else most


class _SummedLoss(torch.autograd.Function):
    """Sum of the cross entropies; forward also computes the gradient, from the same logits."""

    @staticmethod
    def forward(
        context: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        dtype = working_dtype(hidden)
        states, head_weight = hidden.to(dtype), weight.to(dtype)
        grad_hidden = torch.empty_like(states)
        grad_weight = torch.zeros_like(weight) if context.needs_input_grad[1] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        at_once = _rows_at_once(len(states), len(weight), hidden.device)
        for start in range(0, len(states), at_once):
            part = slice(start, start + at_once)
            logits = product(states[part], head_weight).float()
            logits -= logits.amax(dim=-1, keepdim=True)
            chosen = targets[part, None]
            of_targets = logits.gather(-1, chosen)
            shares = logits.exp_()
            sums = shares.sum(dim=-1, keepdim=True)
            total += (sums.log() - of_targets).sum()
            if not any(context.needs_input_grad):
                continue
            shares /= sums
            gradient = shares.scatter_add_(-1, chosen, torch.full_like(sums, -1.0)).to(dtype)
            grad_hidden[part] = product(gradient, head_weight.T)
            if grad_weight is not None:
                add_product(grad_weight, gradient.T, states[part])
        context.save_for_backward(grad_hidden, *([] if grad_weight is None else [grad_weight]))
        context.dtype = hidden.dtype
        return total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place, because a copy of the weight's gradient takes long. A second pass raises.
        grad_hidden, *grad_weight = (saved.mul_(gradients[0]) for saved in context.saved_tensors)
        return grad_hidden.to(context.dtype), *(grad_weight or [None]), None
