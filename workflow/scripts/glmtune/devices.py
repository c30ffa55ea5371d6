"""Which device and precision a run uses, and why; both by their names."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from glmtune.errors import ParamsError, ResourceError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Device:
    """A device with the dtype of frozen weights; `reason` is for the log and the report."""

    name: str
    dtype: str
    reason: str


def choose_device() -> Device:
    """CUDA in bfloat16 where the card has it, else float16; the CPU in float32."""
    if not torch.cuda.is_available():
        return Device("cpu", "float32", "no CUDA device")
    major, minor = torch.cuda.get_device_capability()
    card = f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Device("cuda", "bfloat16", card)
    return Device("cuda", "float16", f"{card} without bfloat16")


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """float32, float16 or bfloat16 by name or as torch's own."""
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ParamsError(f"dtype: found {dtype}; expected one of {', '.join(DTYPES)}")
    return found


def parse_device(device: str | torch.device) -> torch.device:
    """A torch device; raises if there is no such hardware here."""
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ParamsError(f"device: found {device!r}; expected cpu, cuda or cuda:N") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"device: found {device}; this machine has {torch.cuda.device_count()} CUDA devices; "
            "choose cpu"
        )
    return found


def total_memory(device: Device) -> float:
    """Bytes of memory that `device` has, in use or not: of the GPU, or RAM."""
    if device.name == "cpu":
        import psutil

        return float(psutil.virtual_memory().total)
    return float(torch.cuda.get_device_properties(0).total_memory)
