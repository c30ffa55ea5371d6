"""Dequantize int8 weights with cpm_kernels, the official code's CUDA library: on request only.

It has no kernel from int8 to fp16: `gemm_scale_x` scales rows of int32, so the values are widened
first. The caller reports what it raises where it cannot run (no driver, no code for this GPU).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from glmtune.errors import ResourceError


def open_cpm_kernels(
    device: torch.device, bits: int, dtype: torch.dtype
) -> Callable[..., torch.Tensor]:
    """Return the dequantizer; ResourceError where it cannot be used."""
    if bits != 8 or device.type != "cuda":
        raise ResourceError(f"found device {device}, {bits} bits; expected CUDA and 8")
    try:
        from cpm_kernels.kernels.gemm import gemm_scale_x
    except ImportError as error:
        raise ResourceError(f"{error}; expected: pip install -e '.[cpm-kernels]'") from error

    def dequantizer(
        quantized: torch.Tensor, scale: torch.Tensor, bits: int, dtype: torch.dtype
    ) -> torch.Tensor:
        numbers, scale = quantized.int().contiguous(), scale.half().contiguous()
        weight = torch.empty(quantized.shape, dtype=torch.float16, device=quantized.device)
        pointers = (tensor.data_ptr() for tensor in (numbers, scale, weight))
        with torch.cuda.device_of(quantized):
            gemm_scale_x(1, *quantized.shape, *pointers, torch.cuda.current_stream().cuda_stream)
        return weight.to(dtype)

    return dequantizer
