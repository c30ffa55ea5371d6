"""Dequantize weights, and choose the code that does it on this machine.

Every dequantizer gives the same bits: an integer times the fp16 scale of its row, rounded to fp16,
then to the requested dtype. One that gives different bits on this machine is not used. So the
choice affects speed but no result: it is not a parameter, and not part of any key of the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

import torch

from glmtune.errors import ParamsError, ResourceError, UserError, first_line
from glmtune.modeling.dequantizer_cpm_kernels import open_cpm_kernels
from glmtune.modeling.dequantizer_triton import open_triton

# (quantized (n, m * bits / 8), scale (n), bits, dtype) -> weight (n, m)
Dequantizer = Callable[[torch.Tensor, torch.Tensor, int, torch.dtype], torch.Tensor]

# How many values a CPU dequantizes at a time: they stay in its cache, which is twice as fast.
VALUES_AT_ONCE = 2**18

# The environment variable that requests one by name.
VARIABLE = "GLMTUNE_QUANTIZATION_KERNEL"


def unpack_int4(quantized: torch.Tensor) -> torch.Tensor:
    """Unpack each byte into two columns. [[31]] -> [[1, -1]]."""
    return torch.stack((quantized >> 4, (quantized << 4) >> 4), dim=-1).flatten(-2)


def dequantize_with_torch(
    quantized: torch.Tensor, scale: torch.Tensor, bits: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return the dequantized weight (n, m), on any device: the reference for the others."""
    rows, columns = quantized.shape[0], quantized.shape[1] * 8 // bits
    weight = torch.empty(rows, columns, dtype=dtype, device=quantized.device)
    rows_at_once = max(VALUES_AT_ONCE // columns, 1) if quantized.device.type == "cpu" else rows
    for start in range(0, rows, rows_at_once):
        part = slice(start, start + rows_at_once)
        numbers = unpack_int4(quantized[part]) if bits == 4 else quantized[part]
        weight[part] = numbers.half() * scale[part, None].half()
    return weight


# name -> opens the dequantizer for (device, bits, dtype); any exception means it is unavailable.
OPENERS: dict[str, Callable[[torch.device, int, torch.dtype], Dequantizer]] = {
    "torch": lambda device, bits, dtype: dequantize_with_torch,
    "triton": open_triton,
    "cpm_kernels": open_cpm_kernels,
}


def requested_dequantizer() -> str:
    """The dequantizer that the user requests: a name of OPENERS, or "auto"."""
    return os.environ.get(VARIABLE) or "auto"


@lru_cache
def choose_dequantizer(
    device: torch.device, bits: int, dtype: torch.dtype, wanted: str = "auto"
) -> Dequantizer:
    """The `wanted` dequantizer; with "auto" PyTorch's on the CPU, on CUDA Triton's where it works.

    Raises ParamsError for an unknown name and ResourceError if the wanted one is unavailable.
    """
    if wanted not in (*OPENERS, "auto"):
        names = ", ".join(OPENERS)
        raise ParamsError(f"{VARIABLE}: found {wanted!r}; expected auto or one of {names}")
    if wanted == "auto" and device.type != "cuda":
        return dequantize_with_torch
    try:
        dequantizer = OPENERS["triton" if wanted == "auto" else wanted](device, bits, dtype)
        check_bits(dequantizer, device, bits, dtype)
    except Exception as error:  # from a compiler, driver or library: there is no list of them
        if wanted == "auto":
            reason = _one_line(error)
            print(f"quantized weights: dequantized by PyTorch, Triton is unavailable: {reason}")
            return dequantize_with_torch
        raise ResourceError(
            f"{VARIABLE}={wanted}: {_one_line(error)}; or unset the variable to use what works "
            "here, with the same results"
        ) from error
    return dequantizer


def check_bits(
    dequantizer: Dequantizer, device: torch.device, bits: int, dtype: torch.dtype
) -> None:
    """Raise ResourceError unless it equals PyTorch for every byte and for scales of all sizes."""
    every_byte = torch.arange(-128, 128, dtype=torch.int8).repeat(5, 5)[:, :1205]
    zero_to_large = torch.tensor([0.0, 2.0**-24, 1e-3, 0.0123, 500.0], dtype=torch.float16)
    quantized, scale = every_byte.to(device), zero_to_large.to(device)
    expected = dequantize_with_torch(quantized, scale, bits, dtype)
    if not torch.equal(dequantizer(quantized, scale, bits, dtype), expected):
        raise ResourceError(
            f"found results different from PyTorch's for {bits}-bit weights in {dtype} on "
            f"{device}; expected the same bits"
        )


def _one_line(error: Exception) -> str:
    """Our own message unchanged; for any other error its type and first line."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"
