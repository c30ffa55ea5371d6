"""LoRA's variants: each trains, is saved as a plain adapter of the base, answers and merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file
from tiny_adapters import ALL_LINEARS
from tiny_models import prompt, tiny_model
from tiny_training import FAMILY_NAMES, LORA_KINDS, losses, settings_of, tune
from tiny_training import rows as rows  # a fixture
from transformers import TrainingArguments

from glmtune.checkpoints.adapters import load_adapter
from glmtune.errors import ParamsError, WeightsError
from glmtune.export.merging import merge_adapter
from glmtune.families.tokenized import TokenizedRows
from glmtune.modeling import packing
from glmtune.modeling.quantization import quantize_model
from glmtune.training.trainer import ResumableTrainer, mean_loss
from glmtune.tuning.registry import METHODS

pytestmark = pytest.mark.numeric

LORA = METHODS["lora"]
INPUT = torch.tensor([[*prompt([5, 6, 7]), 8, 9]])
# The base's own components moved into the adapter: sums in another order, no other numbers.
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(INPUT).logits


def tuned(family: str, folder: Path, **kind: Any) -> Any:
    """A model with weights as after a training, saved in `folder`."""
    model = LORA.prepare(tiny_model(family), settings_of("lora", dropout=0.0, **kind))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
    LORA.save(model, folder, folder)
    return model


def reloaded(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    model = tiny_model(family).to(dtype)
    load_adapter(model, folder)
    return model.eval()


def adapted_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "lora_A")]


# --- each kind -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("kind", LORA_KINDS)
def test_a_trained_adapter_answers_and_merges_as_it_was_trained(
    family: str, kind: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"max_steps": 8, "dropout": 0.0, "target_modules": "all-linear"}
    model, outcome = tune(family, "lora", rows, tmp_path / "work", **changes, **LORA_KINDS[kind])
    assert outcome.dev_loss is not None
    assert outcome.dev_loss < mean_loss(tiny_model(family), rows, 4, pad_token_id=3)
    LORA.save(model, tmp_path / "adapter", tmp_path)
    trained = logits(model)
    assert not torch.allclose(trained, logits(tiny_model(family)), atol=1e-2)
    again = reloaded(family, tmp_path / "adapter")
    torch.testing.assert_close(logits(again), trained, **TOLERANCE)
    merged = merge_adapter(again)
    torch.testing.assert_close(logits(merged), trained, **TOLERANCE)
    assert merged.state_dict().keys() == tiny_model(family).state_dict().keys()


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("kind", LORA_KINDS)
def test_every_kind_starts_from_the_base(family: str, kind: str) -> None:
    settings = settings_of("lora", dropout=0.0, **LORA_KINDS[kind])
    model = LORA.prepare(tiny_model(family), settings)
    torch.testing.assert_close(logits(model), logits(tiny_model(family)), **TOLERANCE)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", LORA_KINDS)
def test_peft_itself_reads_every_kind_on_the_original_base(kind: str, tmp_path: Path) -> None:
    expected = logits(tuned("chatglm2-6b", tmp_path, **LORA_KINDS[kind]))
    model = PeftModel.from_pretrained(tiny_model("chatglm2-6b"), str(tmp_path))
    torch.testing.assert_close(logits(model), expected, **TOLERANCE)


@pytest.mark.parametrize("kind", ["pissa", "olora", "pissa, dora and rslora"])
def test_saving_twice_writes_the_same_adapter(kind: str, tmp_path: Path) -> None:
    model = tuned("chatglm2-6b", tmp_path / "one", **LORA_KINDS[kind])
    LORA.save(model, tmp_path / "two", tmp_path)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


# --- what each computes ------------------------------------------------------------------------


def test_rslora_scales_by_the_root_of_the_rank(tmp_path: Path) -> None:
    tuned("chatglm2-6b", tmp_path, rslora=True, rank=4, alpha=6)
    for layer in adapted_layers(reloaded("chatglm2-6b", tmp_path)):
        assert layer.scaling["default"] == 6 / 4**0.5


def test_dora_gives_each_row_of_the_sum_the_trained_length(tmp_path: Path) -> None:
    model = tuned("chatglm2-6b", tmp_path, dora=True)
    merged: Any = merge_adapter(reloaded("chatglm2-6b", tmp_path))
    for layer, plain in zip(adapted_layers(model), merged.transformer.layers, strict=True):
        a, b = (getattr(layer, f"lora_{part}")["default"].weight for part in "AB")
        rows = layer.base_layer.weight + layer.scaling["default"] * b @ a
        lengths = layer.lora_magnitude_vector["default"].weight
        expected = lengths[:, None] * torch.nn.functional.normalize(rows, dim=1)
        torch.testing.assert_close(plain.self_attention.query_key_value.weight, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_lengths_of_dora_are_not_rounded_to_half_precision(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    tuned("chatglm2-6b", tmp_path, dora=True)
    half = reloaded("chatglm2-6b", tmp_path, dtype)
    full = reloaded("chatglm2-6b", tmp_path)
    for layer, exact in zip(adapted_layers(half), adapted_layers(full), strict=True):
        found, expected = (each.lora_magnitude_vector["default"] for each in (layer, exact))
        assert torch.equal(found.weight, expected.weight)
        assert found.factor.dtype == torch.float32
    assert logits(half).dtype == dtype


def test_pissa_takes_the_principal_components_out_of_the_base() -> None:
    plain = tiny_model("chatglm2-6b").transformer.layers[0].self_attention.query_key_value.weight
    settings = settings_of("lora", init="pissa", rank=3)
    layer = adapted_layers(LORA.prepare(tiny_model("chatglm2-6b"), settings))[0]
    left = torch.linalg.svdvals(layer.base_layer.weight)
    torch.testing.assert_close(left[:-3], torch.linalg.svdvals(plain)[3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_start_from_the_base_is_saved_as_plain_lora_of_twice_the_rank(
    kind: str, rslora: bool, tmp_path: Path
) -> None:
    model = tuned("chatglm2-6b", tmp_path, init=kind, rslora=rslora, rank=2)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["init_lora_weights"], config["r"]) == (True, 4)
    before, after = adapted_layers(model)[0], adapted_layers(reloaded("chatglm2-6b", tmp_path))[0]
    assert after.scaling["default"] == pytest.approx(before.scaling["default"], rel=1e-12)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_all_linear_is_every_linear_layer_but_the_output(family: str) -> None:
    model = LORA.prepare(tiny_model(family), settings_of("lora", target_modules="all-linear"))
    names = {
        name.split(".lora_")[0].rsplit(".", 1)[-1]
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    assert names == set(ALL_LINEARS)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("dora", [False, True])
def test_lora_plus_gives_each_weight_the_rate_that_peft_gives_it(
    optimizer: str, dora: bool, tmp_path: Path
) -> None:
    settings = settings_of("lora", lora_plus_ratio=16, dora=dora)
    model: Any = LORA.prepare(tiny_model("chatglm2-6b"), settings)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=1e-3,
        optim={"adamw": "adamw_torch_fused"}.get(optimizer, optimizer),
        use_cpu=True,
        report_to=[],
    )
    trainer = ResumableTrainer(model=model, args=arguments)
    trainer.rates = LORA.rates(settings)
    own = trainer.create_optimizer()
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    assert _rates(own) == _rates(theirs)
    assert set(_rates(own).values()) == {1e-3, 16e-3}
    assert trainer.create_optimizer() is own


def _rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    groups = optimizer.param_groups
    return {id(weight): group["lr"] for group in groups for weight in group["params"]}


def test_the_curve_shows_the_rate_of_a(rows: TokenizedRows, tmp_path: Path) -> None:
    plain, ratio = (
        tune("chatglm2-6b", "lora", rows, tmp_path / str(ratio), lora_plus_ratio=ratio)[1]
        for ratio in (1, 4)
    )
    rates = [[point["learning_rate"] for point in outcome.curve] for outcome in (plain, ratio)]
    assert rates[0] == rates[1]
    assert losses(plain)[-1] != losses(ratio)[-1]


# --- where they answer ---------------------------------------------------------------------------


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_answers_on_packed_weights(
    dora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packing leaves no matrix behind: PEFT asks A for its type, and DoRA computes lengths."""
    expected = logits(tuned("chatglm2-6b", tmp_path, dora=dora))
    model = reloaded("chatglm2-6b", tmp_path)
    monkeypatch.setattr(packing, "FEWEST_ELEMENTS", 1)
    packing.pack_linears(model)
    assert any(isinstance(module, packing.PackedLinear) for module in model.modules())
    torch.testing.assert_close(logits(model), expected, **TOLERANCE)


def test_names_of_dora_as_other_savers_write_them_load(tmp_path: Path) -> None:
    expected = logits(tuned("chatglm2-6b", tmp_path, dora=True))
    file, end = tmp_path / "adapter_model.safetensors", "lora_magnitude_vector"
    state = load_file(file)
    renamed = {n.replace(end, f"{end}.default.weight"): tensor for n, tensor in state.items()}
    assert renamed.keys() != state.keys()
    save_file(renamed, file)
    torch.testing.assert_close(logits(reloaded("chatglm2-6b", tmp_path)), expected, **TOLERANCE)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "begin"),
    [
        ({"dora": True}, "dora: true: "),
        ({"init": "pissa"}, "init: pissa: "),
        ({"init": "olora"}, "init: olora: "),
    ],
)
def test_quantized_weights_are_refused_by_what_computes_with_the_base_s_own(
    kind: dict[str, Any], begin: str
) -> None:
    model = tiny_model("chatglm2-6b").half()
    quantize_model(model, 8)
    with pytest.raises(ParamsError) as caught:
        LORA.prepare(model, settings_of("lora", **kind))
    assert str(caught.value).startswith(begin + "computes with the base's own weights, but this ")
    assert "\n" not in str(caught.value)


def test_rslora_trains_on_quantized_weights() -> None:
    model = tiny_model("chatglm2-6b").half()
    quantize_model(model, 8)
    tuned = LORA.prepare(model, settings_of("lora", rslora=True)).train()
    tuned(INPUT, labels=INPUT).loss.backward()
    assert all(w.grad is not None for w in tuned.parameters() if w.requires_grad)


def test_a_dora_adapter_is_not_put_on_quantized_weights(tmp_path: Path) -> None:
    tuned("chatglm2-6b", tmp_path, dora=True)
    model = tiny_model("chatglm2-6b").half()
    quantize_model(model, 4)
    with pytest.raises(WeightsError, match=r"adapter_config\.json: use_dora: .*quantized to 4 bit"):
        load_adapter(model, tmp_path)
