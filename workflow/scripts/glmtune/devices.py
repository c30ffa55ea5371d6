"""Which device and precision a run uses, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Place:
    """A device with the dtype of frozen weights; `reason` is for the log and the report."""

    device: str
    dtype: str
    reason: str


def choose_device() -> Place:
    """CUDA in bfloat16 where the card has it, else float16; the CPU in float32."""
    if not torch.cuda.is_available():
        return Place("cpu", "float32", "no CUDA device")
    major, minor = torch.cuda.get_device_capability()
    card = f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Place("cuda", "bfloat16", card)
    return Place("cuda", "float16", f"{card} without bfloat16")
