"""The dtype that a layer computes in, and the bits that its weight may be quantized to."""

from __future__ import annotations

import torch

BITS = (4, 8)


def working_dtype(states: torch.Tensor) -> torch.dtype:
    """The dtype in which a linear computes: autocast's if enabled, else that of `states`."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
