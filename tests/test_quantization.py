"""Packed weights: the official bits, and gradients through them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import GOLDEN_FAMILIES, TOLERANCE, prompt, tiny_model

from glmtune.families import FAMILIES
from glmtune.quantization import (
    BITS,
    QuantizedLinear,
    dequantize,
    pack_int4,
    quantize,
    quantize_model,
    unpack_int4,
)
from glmtune.weights import load_model, save_model

VERSIONS = sorted(GOLDEN_FAMILIES)
IDS = torch.tensor([prompt([5, 9, 33])])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_official_quantised_checkpoint_gives_the_official_logits(
    reference: Path, version: str, bits: int
) -> None:
    golden = load_file(reference / version / f"quant_int{bits}.safetensors")
    model = load_model(reference / version / f"checkpoint_int{bits}")
    for name, expected in golden.items():
        if name.startswith("dequant."):
            linear = model.get_submodule(name.removeprefix("dequant.").removesuffix(".weight"))
            assert torch.equal(dequantize(linear.weight, linear.weight_scale, bits), expected)
    with torch.no_grad():
        logits = model(golden["batch3.input_ids"][:1]).logits
    difference = (logits - golden["batch3.logits_row0_fp32_with_dequantised_weights"]).abs().max()
    assert float(difference) <= TOLERANCE[version]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("version", VERSIONS)
def test_quantising_gives_the_official_bytes(
    reference: Path, version: str, bits: int, dtype: str
) -> None:
    model = load_model(reference / version / "checkpoint", dtype=dtype)
    quantize_model(model, bits)
    official = load_model(reference / version / f"checkpoint_int{bits}", dtype=dtype)
    expected = official.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_four_bits_are_packed_in_pairs() -> None:
    numbers = torch.tensor([[1, -1, -7, 7]], dtype=torch.int8)
    packed = pack_int4(numbers)
    assert packed.tolist() == [[0x1F, (0x97) - 256]]
    assert torch.equal(unpack_int4(packed), numbers)


def test_a_row_of_zeros_stays_zero() -> None:
    packed, scale = quantize(torch.zeros(2, 4), 8)
    assert torch.equal(dequantize(packed, scale, 8), torch.zeros(2, 4).half())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("generation", sorted(FAMILIES))
def test_a_quantised_model_saves_and_loads(tmp_path: Path, generation: str, bits: int) -> None:
    model = tiny_model(generation)
    quantize_model(model, bits)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("bits", BITS)
def test_gradients_pass_through_packed_weights(bits: int) -> None:
    torch.manual_seed(1)
    linear = QuantizedLinear(6, 4, bits=bits, bias=False)
    packed, scale = quantize(torch.randn(4, 6), bits)
    linear.weight = torch.nn.Parameter(packed, requires_grad=False)
    linear.weight_scale = scale
    x = torch.randn(3, 6, requires_grad=True)
    linear(x).square().sum().backward()
    plain = x.detach().clone().requires_grad_(True)
    torch.nn.functional.linear(
        plain, dequantize(packed, scale, bits).float()
    ).square().sum().backward()
    torch.testing.assert_close(x.grad, plain.grad)


# PEFT asks for it by a name that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("generation", sorted(FAMILIES))
def test_lora_trains_on_packed_weights(generation: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model(generation)
    quantize_model(model, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["query_key_value"]))
    tuned.train()(input_ids=IDS, labels=IDS).loss.backward()
    gradients = [p.grad for name, p in tuned.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)
    for name, tensor in tuned.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        assert plain not in before or torch.equal(before[plain], tensor)
