"""LoRA merged into the weights: the same answers, official names, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_adapters import ALL_LINEARS, tuned_adapter
from tiny_models import (
    GOLDEN_FAMILIES,
    LORA_TOLERANCE,
    golden_error,
    golden_model,
    golden_tensors,
    prompt,
    tiny_model,
)

from glmtune.checkpoints.adapters import load_adapter
from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.saving import save_model
from glmtune.errors import WeightsError
from glmtune.export.merging import merge_adapter
from glmtune.families.registry import FAMILIES
from glmtune.modeling.precision import BITS
from glmtune.modeling.quantization import quantize_model

pytestmark = pytest.mark.numeric

FAMILY_NAMES = sorted(FAMILIES)
VERSIONS = sorted(GOLDEN_FAMILIES)
IDS = torch.tensor([prompt([5, 9, 33, 12])])
# Of the largest logit, measured with these models: a tenth of what is refused, and of the effect.
ROUNDING = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def adapted(adapter: Path, family: str, dtype: torch.dtype = torch.float32) -> Any:
    model = tiny_model(family).to(dtype)
    load_adapter(model, adapter)
    return model.eval()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_merged_model_answers_as_the_adapted_one(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    adapter = tuned_adapter(tmp_path, tiny_model(family), targets=ALL_LINEARS)
    model = adapted(adapter, family, dtype)
    before, base = logits(model), logits(tiny_model(family).to(dtype))
    merged = merge_adapter(model)
    largest = before.abs().max()
    assert (logits(merged) - before).abs().max() <= ROUNDING[dtype] * largest
    assert (before - base).abs().max() > 0.1 * largest
    assert not merged.training


@pytest.mark.parametrize("version", VERSIONS)
def test_merged_logits_are_those_of_the_official_code(reference: Path, version: str) -> None:
    model = merge_adapter(golden_model(reference, version, "lora"))
    tensors = golden_tensors(reference, version, "logits_lora")
    for name in ("batch3", "long300"):
        assert golden_error(model, version, tensors, name) <= LORA_TOLERANCE[version]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_merged_weights_are_the_sum_in_full_precision_rounded_once(
    tmp_path: Path, family: str
) -> None:
    model = adapted(tuned_adapter(tmp_path, tiny_model(family)), family, torch.float16)
    layer = model.transformer.layers[1]
    attention = layer.self_attention if hasattr(layer, "self_attention") else layer.attention
    wrapper = attention.query_key_value
    a, b = (getattr(wrapper, f"lora_{part}")["default"].weight.float() for part in "AB")
    expected = wrapper.base_layer.weight.float() + 8 / 4 * b @ a
    merge_adapter(model)
    assert attention.query_key_value.weight.dtype == torch.float16
    assert torch.equal(attention.query_key_value.weight, expected.half())


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_merged_model_is_saved_under_official_names(tmp_path: Path, family: str) -> None:
    adapter = tuned_adapter(tmp_path / "adapter", tiny_model(family), targets=ALL_LINEARS)
    merged = merge_adapter(adapted(adapter, family))
    assert merged.state_dict().keys() == tiny_model(family).state_dict().keys()
    save_model(merged, tmp_path / "merged")
    assert torch.equal(logits(load_model(tmp_path / "merged")), logits(merged))


def test_parts_that_an_adapter_trained_as_a_whole_are_kept(tmp_path: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=2, target_modules=["query_key_value"], modules_to_save=["final_layernorm"]
    )
    model = tiny_model("chatglm2-6b")
    inject_adapter_in_model(config, model)
    with torch.no_grad():
        model.transformer.encoder.final_layernorm.modules_to_save["default"].weight.mul_(2)
    before = logits(model)
    torch.testing.assert_close(logits(merge_adapter(model)), before)
    assert model.state_dict().keys() == tiny_model("chatglm2-6b").state_dict().keys()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_an_adapter_that_was_never_trained_is_named(tmp_path: Path, family: str) -> None:
    adapter = tuned_adapter(tmp_path, tiny_model(family), scale=0.0)
    with pytest.raises(WeightsError, match="^my adapter: has no effect: .* zero everywhere"):
        merge_adapter(adapted(adapter, family), source="my adapter")


def test_an_adapter_lost_to_rounding_is_named(tmp_path: Path) -> None:
    """Unmerged it has an effect, but its sum with the base in bfloat16 is the base."""
    adapter = tuned_adapter(tmp_path, tiny_model("chatglm2-6b"), scale=1e-4)
    with pytest.raises(WeightsError, match="has no effect: .* or too small for bfloat16;"):
        merge_adapter(adapted(adapter, "chatglm2-6b", torch.bfloat16))
    merge_adapter(adapted(adapter, "chatglm2-6b"))


@pytest.mark.parametrize("bits", BITS)
def test_quantized_weights_take_no_adapter_in(tmp_path: Path, bits: int) -> None:
    model = tiny_model("chatglm2-6b").half()
    quantize_model(model, bits)
    load_adapter(model, tuned_adapter(tmp_path, tiny_model("chatglm2-6b")))
    with pytest.raises(
        WeightsError, match=rf"query_key_value of the base .* quantized to {bits} bits"
    ):
        merge_adapter(model)


def test_an_adapter_that_overflows_half_precision_is_refused(tmp_path: Path) -> None:
    """Its unmerged parts fit into fp16; their product overflows."""
    model = adapted(
        tuned_adapter(tmp_path, tiny_model("chatglm2-6b")), "chatglm2-6b", torch.float16
    )
    layer = model.transformer.layers[0].self_attention.query_key_value
    layer.lora_A["default"].weight.data.fill_(1e-3)
    layer.lora_B["default"].weight.data.fill_(6e4)
    layer.scaling["default"] = 1e4
    with pytest.raises(
        WeightsError, match=r"(NaN or infinite logits; merge with .*float32|cannot be merged)"
    ):
        merge_adapter(model)


def test_a_base_that_amplifies_rounding_is_merged_and_the_change_reported(
    reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every layer merges exactly; the change of the logits is due to the random base."""
    model = load_model(reference / "v1" / "checkpoint", dtype="float16")
    load_adapter(model, reference / "v1" / "lora_peft")
    merged = merge_adapter(model)
    assert merged.dtype == torch.float16
    said = capsys.readouterr().err
    moved = re.search(r"to float16 changes the logits by up to (\S+) of the largest", said)
    assert moved
    assert float(moved[1]) > 0.05


def test_a_layer_that_merges_wrongly_is_named_whatever_the_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 a small mistake is less than what rounding does to the logits."""
    model = adapted(
        tuned_adapter(tmp_path, tiny_model("chatglm2-6b")), "chatglm2-6b", torch.bfloat16
    )
    wrapper = model.transformer.layers[1].self_attention.query_key_value
    delta = wrapper.get_delta_weight
    monkeypatch.setattr(wrapper, "get_delta_weight", lambda name: 1.01 * delta(name))
    expected = r"adapter: merged outputs of \S*layers\.1\.self_attention\.query_key_value differ"
    with pytest.raises(WeightsError, match=expected):
        merge_adapter(model, source="adapter")


def test_a_model_without_an_adapter_has_nothing_to_merge() -> None:
    with pytest.raises(ValueError, match="no adapter in the model"):
        merge_adapter(tiny_model("chatglm2-6b"))


def test_a_model_with_an_adapter_in_it_is_not_saved(tmp_path: Path) -> None:
    model = adapted(tuned_adapter(tmp_path / "adapter", tiny_model("chatglm2-6b")), "chatglm2-6b")
    with pytest.raises(WeightsError, match="an unmerged LoRA adapter, .*merge it first .*or save"):
        save_model(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
