"""Packed weights: their layout, and gradients through them.

That they are the official bytes is in tests/test_goldens.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import prompt, tiny_config, tiny_model

from glmtune.checkpoints.weights import build_model, load_model, save_model
from glmtune.errors import WeightsError
from glmtune.families.registry import FAMILIES
from glmtune.modeling.quantization import (
    BITS,
    QuantizedLinear,
    count_parameters,
    dequantize,
    pack_int4,
    quantize,
    quantize_model,
)
from glmtune.modeling.unpacking import unpack_int4

pytestmark = pytest.mark.numeric

IDS = torch.tensor([prompt([5, 9, 33])])


def test_an_odd_number_of_columns_is_not_packed_in_four_bits() -> None:
    odd = tiny_config("chatglm2-6b") | {"ffn_hidden_size": 41}
    with pytest.raises(WeightsError, match="quantization_bit 4: two columns share a byte, .* 41 "):
        quantize_model(build_model(odd), 4)
    quantize_model(build_model(odd), 8)


def test_four_bits_are_packed_in_pairs() -> None:
    numbers = torch.tensor([[1, -1, -7, 7]], dtype=torch.int8)
    packed = pack_int4(numbers)
    assert packed.tolist() == [[0x1F, (0x97) - 256]]
    assert torch.equal(unpack_int4(packed), numbers)


def test_a_row_of_zeros_stays_zero() -> None:
    packed, scale = quantize(torch.zeros(2, 4), 8)
    assert torch.equal(dequantize(packed, scale, 8), torch.zeros(2, 4).half())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_quantised_model_saves_and_loads(tmp_path: Path, family: str, bits: int) -> None:
    model = tiny_model(family)
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
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_lora_trains_on_packed_weights(family: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model(family)
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


@pytest.mark.parametrize("bits", BITS)
def test_a_packed_weight_counts_as_whole(bits: int) -> None:
    model = tiny_model("chatglm-6b")
    whole = sum(parameter.numel() for parameter in model.parameters())
    quantize_model(model, bits)
    assert count_parameters(model) == whole
