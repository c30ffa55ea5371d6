"""A kernel that dequantizes 8- or 4-bit weights in one pass over memory, for CUDA.

Triton comes with PyTorch's CUDA builds. It is imported when the kernel is first needed: that takes
a second, and CPU builds do not have it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch

from glmtune.errors import ResourceError

BLOCK = 1024  # columns that one program of the kernel writes
tl: Any = None  # triton.language: kernels look it up in the globals of their module


def open_triton(device: torch.device, bits: int, dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    """Return the dequantizer; ResourceError where Triton or the GPU cannot run it."""
    if device.type != "cuda":
        raise ResourceError(f"found device {device}; expected a CUDA GPU")
    if find_spec("triton") is None:
        raise ResourceError(
            "Triton is not installed; expected a CUDA build of PyTorch, with Triton"
        )
    needed = (8, 0) if dtype == torch.bfloat16 else (7, 0)
    found = torch.cuda.get_device_capability(device)
    if found < needed:
        raise ResourceError(
            f"found compute capability {found[0]}.{found[1]}; expected {needed[0]}.{needed[1]} "
            f"or higher for {dtype}"
        )
    return dequantize_with_triton


def dequantize_with_triton(
    quantized: torch.Tensor, scale: torch.Tensor, bits: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return the dequantized weight (n, m)."""
    rows, columns = quantized.shape[0], quantized.shape[1] * 8 // bits
    weight = torch.empty(rows, columns, dtype=dtype, device=quantized.device)
    grid = (rows, -(-columns // BLOCK))
    with torch.cuda.device_of(quantized):
        _compiled()[grid](
            *(quantized.contiguous(), scale.half().contiguous(), weight, columns),
            bits=bits,
            block=BLOCK,
        )
    return weight


@lru_cache
def _compiled() -> Any:
    global tl
    import triton
    import triton.language

    tl = triton.language
    return triton.jit(_dequantize)


def _dequantize(quantized, scale, weight, columns, bits: tl.constexpr, block: tl.constexpr):  # type: ignore
    """A block of columns of one row. Triton compiles this; Python never runs it."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < columns
    per_byte: tl.constexpr = 8 // bits
    start = quantized + row * (columns // per_byte)
    number = tl.load(start + column // per_byte, mask=inside, other=0).to(tl.int32)
    if bits == 4:  # the even column is the upper half; both shifts together keep its sign
        number = (number << (24 + column % 2 * 4)) >> 28
    # Exact in fp32, so that it is rounded once, to fp16.
    product = number.to(tl.float32) * tl.load(scale + row).to(tl.float32)
    value = product.to(tl.float16).to(weight.dtype.element_ty)
    tl.store(weight + row * columns + column, value, mask=inside)
