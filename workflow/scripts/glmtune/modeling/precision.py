"""Which type a layer computes in, and in how many bits its weight may be quantized."""

from __future__ import annotations

import torch

BITS = (4, 8)


def working_dtype(states: torch.Tensor) -> torch.dtype:
    """The type that a linear computes `states` in: autocast's, if it is on, else their own."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
