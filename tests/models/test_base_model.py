"""Opening a base model: results that must not depend on the device's precision."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_config, tiny_model

from glmtune.checkpoints import filling
from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prepared import ModelRef, open_prepared
from glmtune.checkpoints.saving import save_model
from glmtune.errors import ParamsError, WeightsError
from glmtune.files import write_json
from glmtune.modeling.precision import BITS
from glmtune.modeling.quantization import quantize, quantize_model


@pytest.mark.parametrize("family", ["chatglm-6b", "chatglm2-6b"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_quantized_weights_do_not_depend_on_the_precision_of_the_device(
    family: str, bits: int, dtype: str, tmp_path: Path
) -> None:
    save_model(tiny_model(family).half(), tmp_path)
    exact = open_prepared(ModelRef(tmp_path), quantization_bit=bits).state_dict()
    opened = open_prepared(ModelRef(tmp_path), dtype=dtype, quantization_bit=bits).state_dict()
    quantized = [name for name, tensor in exact.items() if tensor.dtype == torch.int8]
    assert quantized
    for name in quantized:
        scale = f"{name}_scale"
        assert torch.equal(opened[name], exact[name])
        assert torch.equal(opened[scale], exact[scale])
    kept = {*quantized, *(f"{name}_scale" for name in quantized)}
    others = {tensor.dtype for name, tensor in opened.items() if name not in kept}
    assert others == {getattr(torch, dtype)}


@pytest.mark.parametrize("family", ["chatglm-6b", "chatglm2-6b"])
@pytest.mark.parametrize("bits", BITS)
def test_quantizing_while_loading_equals_quantizing_the_loaded_model(
    family: str, bits: int, tmp_path: Path
) -> None:
    model = tiny_model(family).half()
    save_model(model, tmp_path)
    read = load_model(tmp_path, quantization_bit=bits)
    quantize_model(model, bits)
    expected = model.state_dict()
    assert read.config.quantization_bit == bits
    for name, tensor in read.state_dict().items():
        assert torch.equal(tensor.to(expected[name].dtype), expected[name]), name


def test_weights_are_quantized_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RAM for the quantized model is enough; the full-precision one need not fit."""
    save_model(tiny_model("chatglm2-6b").half(), tmp_path)
    alive: list[weakref.ref[torch.Tensor]] = []

    def watch(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert not any(reference() is not None for reference in alive[:-1])
        alive.append(weakref.ref(weight))
        return quantize(weight, bits)

    monkeypatch.setattr(filling, "quantize", watch)
    load_model(tmp_path, quantization_bit=4)
    assert len(alive) == 8


@pytest.mark.parametrize("bits", BITS)
def test_a_quantized_random_model_is_the_same_in_every_precision(tmp_path: Path, bits: int) -> None:
    location = {"random": tiny_config("chatglm2-6b"), "seed": 7}
    write_json(tmp_path / "location.json", location)
    in_full = open_prepared(ModelRef(tmp_path), quantization_bit=bits).state_dict()
    in_half = open_prepared(
        ModelRef(tmp_path), quantization_bit=bits, dtype="bfloat16"
    ).state_dict()
    for name, tensor in in_half.items():
        assert torch.equal(in_full[name].to(tensor.dtype), tensor), name


def test_a_quantized_checkpoint_is_not_requantized(tmp_path: Path) -> None:
    model = tiny_model("chatglm2-6b").half()
    quantize_model(model, 4)
    save_model(model, tmp_path)
    assert load_model(tmp_path, quantization_bit=4).config.quantization_bit == 4
    with pytest.raises(WeightsError, match="found quantization_bit 8 for .* to 4 bits; set"):
        load_model(tmp_path, quantization_bit=8)
    with pytest.raises(ParamsError, match="quantization_bit: found 3; expected None, 8 or 4"):
        load_model(tmp_path, quantization_bit=3)
