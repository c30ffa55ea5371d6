"""Quantized weights: their layout, and gradients through them.

tests/models/test_goldens.py compares them with the official bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import prompt, tiny_config, tiny_model

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.saving import save_model
from glmtune.errors import WeightsError
from glmtune.families.registry import FAMILIES
from glmtune.modeling.dequantizers import unpack_int4
from glmtune.modeling.precision import BITS
from glmtune.modeling.quantization import (
    QuantizedLinear,
    dequantize,
    pack_int4,
    quantize,
    quantize_model,
)
from glmtune.training.parameters import count_parameters

pytestmark = pytest.mark.numeric

IDS = torch.tensor([prompt([5, 9, 33])])


def test_an_odd_number_of_columns_is_not_quantized_to_four_bits() -> None:
    odd = tiny_config("chatglm2-6b") | {"ffn_hidden_size": 41}
    with pytest.raises(WeightsError, match="quantization_bit 4: found a linear layer with 41 col"):
        quantize_model(build_model(odd), 4)
    quantize_model(build_model(odd), 8)


def test_four_bits_are_packed_in_pairs() -> None:
    numbers = torch.tensor([[1, -1, -7, 7]], dtype=torch.int8)
    quantized = pack_int4(numbers)
    assert quantized.tolist() == [[0x1F, (0x97) - 256]]
    assert torch.equal(unpack_int4(quantized), numbers)


def test_a_row_of_zeros_stays_zero() -> None:
    quantized, scale = quantize(torch.zeros(2, 4), 8)
    assert torch.equal(dequantize(quantized, scale, 8), torch.zeros(2, 4).half())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_quantized_model_saves_and_loads(tmp_path: Path, family: str, bits: int) -> None:
    model = tiny_model(family)
    quantize_model(model, bits)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("bits", BITS)
def test_gradients_pass_through_quantized_weights(bits: int) -> None:
    torch.manual_seed(1)
    linear = QuantizedLinear(6, 4, bits=bits, bias=False)
    quantized, scale = quantize(torch.randn(4, 6), bits)
    linear.weight = torch.nn.Parameter(quantized, requires_grad=False)
    linear.weight_scale = scale
    x = torch.randn(3, 6, requires_grad=True)
    linear(x).square().sum().backward()
    plain = x.detach().clone().requires_grad_(True)
    torch.nn.functional.linear(
        plain, dequantize(quantized, scale, bits).float()
    ).square().sum().backward()
    torch.testing.assert_close(x.grad, plain.grad)


# PEFT uses a name that transformers has since renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_lora_trains_on_quantized_weights(family: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model(family)
    quantize_model(model, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["query_key_value"]))
    tuned.train()(input_ids=IDS, labels=IDS).loss.backward()
    gradients: list[Any] = [p.grad for name, p in tuned.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)
    for name, tensor in tuned.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        assert plain not in before or torch.equal(before[plain], tensor)


@pytest.mark.parametrize("bits", BITS)
def test_a_quantized_weight_counts_in_full(bits: int) -> None:
    model = tiny_model("chatglm-6b")
    whole = sum(parameter.numel() for parameter in model.parameters())
    quantize_model(model, bits)
    assert count_parameters(model) == whole
