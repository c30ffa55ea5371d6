"""Opening a base model: what a device's precision may not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

from glmtune.base_model import open_model
from glmtune.quantization import BITS
from glmtune.weights import save_model


@pytest.mark.parametrize("generation", ["chatglm-6b", "chatglm2-6b"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_packed_weights_do_not_depend_on_the_precision_of_the_device(
    generation: str, bits: int, dtype: str, tmp_path: Path
) -> None:
    save_model(tiny_model(generation).half(), tmp_path)
    exact = open_model(tmp_path, quantization_bit=bits).state_dict()
    opened = open_model(tmp_path, dtype=dtype, quantization_bit=bits).state_dict()
    packed = [name for name, tensor in exact.items() if tensor.dtype == torch.int8]
    assert packed
    for name in packed:
        scale = f"{name}_scale"
        assert torch.equal(opened[name], exact[name])
        assert torch.equal(opened[scale], exact[scale])
    kept = {*packed, *(f"{name}_scale" for name in packed)}
    others = {tensor.dtype for name, tensor in opened.items() if name not in kept}
    assert others == {getattr(torch, dtype)}
