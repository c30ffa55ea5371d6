"""What `measure_gpu.py` measures of packed weights: each way to unpack them, at the sizes of 6B."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_measurements import median_seconds
from torch.nn import functional as F

from glmtune.devices import Place
from glmtune.errors import ResourceError
from glmtune.modeling.quantization import quantize
from glmtune.modeling.unpacking import OPENERS, choose_unpacker, unpack_with_torch


@dataclass(frozen=True)
class PackedCase:
    """A packed weight (rows, columns), unpacked only, or multiplied with that many inputs too."""

    rows: int
    columns: int
    bits: int
    inputs: int | None


def measure_packed(case: PackedCase, place: Place, tiny: bool) -> dict[str, Any]:
    """Seconds with each unpacker, or why it refuses; of a product also with an unpacked weight."""
    device, dtype = torch.device(place.device), getattr(torch, place.dtype)
    rows, columns = (case.rows // 64, case.columns // 64) if tiny else (case.rows, case.columns)
    packed, scale = quantize(torch.randn(rows, columns, device=device), case.bits)
    weight = unpack_with_torch(packed, scale, case.bits, dtype)
    figures: dict[str, Any] = {}
    x = None
    if case.inputs is not None:
        x = torch.randn(case.inputs, columns, device=device, dtype=dtype)
        figures["unpacked_seconds"] = median_seconds(lambda: F.linear(x, weight), calls=20)
    for name in OPENERS:
        try:
            unpack = choose_unpacker(device, case.bits, dtype, name)
        except ResourceError as error:
            figures[f"{name}_refused"] = str(error)
            continue
        run = partial(unpack, packed, scale, case.bits, dtype)
        figures[f"{name}_same_bits"] = torch.equal(run(), weight)
        work = run if x is None else partial(_multiply, x, run)
        figures[f"{name}_seconds"] = median_seconds(work, calls=20)
    return figures


def _multiply(x: torch.Tensor, unpack: Callable[[], torch.Tensor]) -> torch.Tensor:
    return F.linear(x, unpack())
