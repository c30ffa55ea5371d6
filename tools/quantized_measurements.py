"""What `measure_gpu.py` measures of quantized weights: each dequantizer, at the sizes of 6B."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_measurements import median_seconds
from torch.nn import functional as F

from glmtune.devices import Device
from glmtune.errors import ResourceError
from glmtune.modeling.dequantizers import OPENERS, choose_dequantizer, dequantize_with_torch
from glmtune.modeling.quantization import quantize


@dataclass(frozen=True)
class QuantizedCase:
    """A quantized weight (rows, columns), dequantized only, or also applied to `inputs` rows."""

    rows: int
    columns: int
    bits: int
    inputs: int | None


def measure_quantized(case: QuantizedCase, device: Device, tiny: bool) -> dict[str, Any]:
    """Seconds with each dequantizer, or why it refuses; of a product also without dequantizing."""
    torch_device, dtype = torch.device(device.name), getattr(torch, device.dtype)
    rows, columns = (case.rows // 64, case.columns // 64) if tiny else (case.rows, case.columns)
    quantized, scale = quantize(torch.randn(rows, columns, device=torch_device), case.bits)
    weight = dequantize_with_torch(quantized, scale, case.bits, dtype)
    figures: dict[str, Any] = {}
    x = None
    if case.inputs is not None:
        x = torch.randn(case.inputs, columns, device=torch_device, dtype=dtype)
        figures["unpacked_seconds"] = median_seconds(lambda: F.linear(x, weight), calls=20)
    for name in OPENERS:
        try:
            dequantizer = choose_dequantizer(torch_device, case.bits, dtype, name)
        except ResourceError as error:
            figures[f"{name}_refused"] = str(error)
            continue
        run = partial(dequantizer, quantized, scale, case.bits, dtype)
        figures[f"{name}_same_bits"] = torch.equal(run(), weight)
        work = run if x is None else partial(_multiply, x, run)
        figures[f"{name}_seconds"] = median_seconds(work, calls=20)
    return figures


def _multiply(x: torch.Tensor, dequantizer: Callable[[], torch.Tensor]) -> torch.Tensor:
    return F.linear(x, dequantizer())
