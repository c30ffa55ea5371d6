"""The tuning methods: what they save is what they restore."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import prompt, tiny_config, tiny_model
from tiny_training import settings_of

from glmtune import load_model, load_tokenizer
from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.prepared import ModelRef, open_prepared
from glmtune.checkpoints.saving import save_model
from glmtune.errors import ParamsError, WeightsError
from glmtune.families.registry import FAMILIES
from glmtune.files import write_json
from glmtune.tuning.method import tuned_model
from glmtune.tuning.registry import METHODS, get_method

pytestmark = pytest.mark.numeric

SETTINGS: dict[str, Any] = {
    "pre_seq_len": 3,
    "prefix_projection": True,
    "prefix_dropout": 0.0,
    "rank": 2,
    "alpha": 4,
    "dropout": 0.0,
    "target_modules": ["query_key_value"],
}
INPUT = torch.tensor([[*prompt([5, 6, 7]), 8, 9]])
WHERE: dict[str, Any] = {"dtype": "float32", "device": "cpu", "quantization_bit": None}


def base_folder(family: str, folder: Path) -> Path:
    folder.mkdir()
    save_model(tiny_model(family), folder)
    (folder / FAMILIES[family].tokenizer_class.file_name).write_bytes(b"vocabulary")
    return folder


def disturb(model: torch.nn.Module) -> None:
    """Change the trainable weights as a training would."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_what_was_saved_answers_as_what_was_trained(family: str, name: str, tmp_path: Path) -> None:
    method, base = METHODS[name], base_folder(family, tmp_path / "base")
    tuned = method.prepare(load_model(base), settings_of(name, **SETTINGS))
    disturb(tuned)
    (tmp_path / "checkpoint").mkdir()
    method.save(tuned.eval(), tmp_path / "checkpoint", base)
    restored = open_prepared(tuned_model(method, base, tmp_path / "checkpoint"), **WHERE)
    with torch.no_grad():
        expected, untuned = tuned(INPUT).logits, load_model(base)(INPUT).logits
        torch.testing.assert_close(restored(INPUT).logits, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, untuned, atol=1e-3)


@pytest.mark.parametrize("name", ["ptuning", "lora"])
def test_at_the_start_lora_equals_the_base_but_a_prefix_does_not(name: str, tmp_path: Path) -> None:
    base = base_folder("chatglm2-6b", tmp_path / "base")
    tuned = METHODS[name].prepare(load_model(base), settings_of(name, **SETTINGS)).eval()
    with torch.no_grad():
        same = torch.equal(tuned(INPUT).logits, load_model(base)(INPUT).logits)
    assert same == (name == "lora")


def test_a_full_checkpoint_is_a_model_folder_with_its_vocabulary(tmp_path: Path) -> None:
    base, checkpoint = base_folder("chatglm2-6b", tmp_path / "base"), tmp_path / "checkpoint"
    checkpoint.mkdir()
    METHODS["full"].save(
        METHODS["full"].prepare(load_model(base), settings_of("full")), checkpoint, base
    )
    names = {path.name for path in checkpoint.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.model"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_checkpoint_opens_like_any_model(family: str, tmp_path: Path) -> None:
    base, checkpoint = tmp_path / "base", tmp_path / "checkpoint"
    FAMILIES[family].train_tokenizer(["颜色是白色。"], base, vocab_size=20)
    save_model(tiny_model(family), base)
    tuned = METHODS["full"].prepare(load_model(base), settings_of("full"))
    disturb(tuned)
    checkpoint.mkdir()
    METHODS["full"].save(tuned, checkpoint, base)
    shutil.rmtree(base)
    with torch.no_grad():
        found = load_model(checkpoint, family=family)(INPUT).logits
        assert torch.equal(found, tuned.eval()(INPUT).logits)
    text = "颜色是白色"
    tokenizer = load_tokenizer(checkpoint, family)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_the_number_of_trained_weights_matches_the_formula(family: str, name: str) -> None:
    model = tiny_model(family)
    shape, sizes = model.prefix_shape(), dict(model.named_parameters())
    fused = [w for key, w in sizes.items() if key.endswith("query_key_value.weight")]
    expected = {
        "ptuning": 3 * shape.layers * 2 * shape.groups * shape.head_dim,
        "lora": sum(2 * (outputs + inputs) for outputs, inputs in (w.shape for w in fused)),
        "full": sum(weight.numel() for weight in sizes.values()),
    }
    settings = SETTINGS | {"prefix_projection": False}
    tuned = METHODS[name].prepare(model, settings_of(name, **settings))
    assert sum(w.numel() for w in tuned.parameters() if w.requires_grad) == expected[name]
    assert len(fused) == shape.layers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["ptuning", "lora", "full"])
def test_a_tuned_random_model_is_restored(family: str, name: str, tmp_path: Path) -> None:
    """Its weights are regenerated at each opening; only the tuned ones are on disk."""
    base, checkpoint = tmp_path / "base", tmp_path / "checkpoint"
    write_json(base / "location.json", {"random": tiny_config(family), "seed": 7})
    method = METHODS[name]
    tuned = method.prepare(open_prepared(ModelRef(base), **WHERE), settings_of(name, **SETTINGS))
    disturb(tuned)
    checkpoint.mkdir()
    method.save(tuned.eval(), checkpoint, base)
    restored = open_prepared(tuned_model(method, base, checkpoint), **WHERE)
    assert not restored.training
    with torch.no_grad():
        expected = tuned(INPUT).logits
        torch.testing.assert_close(restored(INPUT).logits, expected, rtol=1e-5, atol=1e-5)


def test_lora_tunes_every_layer_named_in_target_modules(tmp_path: Path) -> None:
    base = base_folder("chatglm2-6b", tmp_path / "base")
    settings = SETTINGS | {"target_modules": ["query_key_value", "dense_4h_to_h"]}
    tuned = METHODS["lora"].prepare(load_model(base), settings_of("lora", **settings))
    disturb(tuned)
    adapted = {
        name.split(".lora_")[0].split(".")[-1]
        for name, w in tuned.named_parameters()
        if w.requires_grad
    }
    assert adapted == {"query_key_value", "dense_4h_to_h"}
    (tmp_path / "checkpoint").mkdir()
    METHODS["lora"].save(tuned.eval(), tmp_path / "checkpoint", base)
    restored = open_prepared(tuned_model(METHODS["lora"], base, tmp_path / "checkpoint"), **WHERE)
    with torch.no_grad():
        torch.testing.assert_close(restored(INPUT).logits, tuned(INPUT).logits)


@pytest.mark.parametrize(
    ("family", "head"), [("chatglm-6b", "lm_head"), ("chatglm2-6b", "output_layer")]
)
def test_lora_on_the_output_layer_is_restored(family: str, head: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    config = tiny_config(family) | {"tie_word_embeddings": False}
    save_model(build_model(config, family, seed=1), base)
    settings = SETTINGS | {"target_modules": ["query_key_value", head]}
    tuned = METHODS["lora"].prepare(load_model(base), settings_of("lora", **settings))
    disturb(tuned)
    (tmp_path / "checkpoint").mkdir()
    METHODS["lora"].save(tuned.eval(), tmp_path / "checkpoint", base)
    saved = load_file(tmp_path / "checkpoint" / "adapter_model.safetensors")
    assert all(".lora_" in name for name in saved)
    restored = open_prepared(tuned_model(METHODS["lora"], base, tmp_path / "checkpoint"), **WHERE)
    with torch.no_grad():
        torch.testing.assert_close(restored(INPUT).logits, tuned(INPUT).logits)


@pytest.mark.parametrize("name", ["ptuning", "lora"])
def test_a_checkpoint_of_another_size_is_refused_by_name(name: str, tmp_path: Path) -> None:
    base = base_folder("chatglm2-6b", tmp_path / "base")
    config = tiny_config("chatglm2-6b") | {"num_layers": 3}
    write_json(tmp_path / "other/location.json", {"random": config, "seed": 1})
    tuned = METHODS[name].prepare(load_model(base), settings_of(name, **SETTINGS))
    (tmp_path / "checkpoint").mkdir()
    METHODS[name].save(tuned, tmp_path / "checkpoint", base)
    model = tuned_model(METHODS[name], tmp_path / "other", tmp_path / "checkpoint")
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path / "checkpoint"))):
        open_prepared(model, **WHERE)


def test_lora_adds_the_product_of_its_two_matrices(tmp_path: Path) -> None:
    base = base_folder("chatglm2-6b", tmp_path / "base")
    tuned = METHODS["lora"].prepare(load_model(base), settings_of("lora", **SETTINGS))
    disturb(tuned)
    modules: list[Any] = list(tuned.modules())
    layers = [m for m in modules if hasattr(m, "lora_A") and hasattr(m, "base_layer")]
    assert len(layers) == 2
    for layer in layers:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        merged = layer.base_layer.weight + SETTINGS["alpha"] / SETTINGS["rank"] * b @ a
        x = torch.randn(1, 3, a.shape[1])
        expected = torch.nn.functional.linear(x, merged, layer.base_layer.bias)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_a_method_without_a_checkpoint_does_not_fall_back_to_the_base(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match=f"method {name}: found no checkpoint; expected the fold"):
        tuned_model(METHODS[name], tmp_path, None)
    assert tuned_model(METHODS["none"], tmp_path, None) == ModelRef(tmp_path)


@pytest.mark.parametrize("name", ["ptuning", "lora"])
def test_users_and_steps_open_the_same_tuned_model(name: str, tmp_path: Path) -> None:
    base, checkpoint = base_folder("chatglm2-6b", tmp_path / "base"), tmp_path / "checkpoint"
    tuned = METHODS[name].prepare(load_model(base), settings_of(name, **SETTINGS))
    disturb(tuned)
    checkpoint.mkdir()
    METHODS[name].save(tuned.eval(), checkpoint, base)
    part: dict[str, Any] = {{"ptuning": "prefix", "lora": "adapter"}[name]: checkpoint}
    user_s = load_model(base, **part, dtype="float32", device="cpu")
    step_s = open_prepared(tuned_model(METHODS[name], base, checkpoint), **WHERE)
    with torch.no_grad():
        assert torch.equal(user_s(INPUT).logits, step_s(INPUT).logits)


def test_a_random_model_is_the_same_at_each_opening(tmp_path: Path) -> None:
    location = {"random": tiny_config("chatglm2-6b"), "seed": 7}
    write_json(tmp_path / "location.json", location)
    models = [open_prepared(ModelRef(tmp_path), **WHERE) for _ in range(2)]
    with torch.no_grad():
        assert torch.equal(models[0](INPUT).logits, models[1](INPUT).logits)


@pytest.mark.parametrize("name", ["ptuning", "lora"])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_base_can_be_tuned(name: str, bits: int, tmp_path: Path) -> None:
    base = base_folder("chatglm2-6b", tmp_path / "base")
    where = WHERE | {"quantization_bit": bits}
    tuned = METHODS[name].prepare(
        open_prepared(ModelRef(base), **where), settings_of(name, **SETTINGS)
    )
    tuned.train()(INPUT, labels=INPUT).loss.backward()
    gradients = [weight.grad for weight in tuned.parameters() if weight.requires_grad]
    assert gradients
    assert all(gradient is not None for gradient in gradients)


def test_lora_refuses_an_output_layer_tied_to_the_embeddings() -> None:
    """When merged, the adapter would also change the input embeddings."""
    settings = SETTINGS | {"target_modules": ["lm_head"]}
    with pytest.raises(ParamsError, match="no linear layer lm_head with untied weights"):
        METHODS["lora"].prepare(tiny_model("chatglm-6b"), settings_of("lora", **settings))


def test_unknown_target_modules_are_refused_with_the_choices() -> None:
    settings = SETTINGS | {"target_modules": ["v_proj", "query_key_value", "q_proj"]}
    with pytest.raises(ParamsError) as caught:
        METHODS["lora"].prepare(tiny_model("chatglm2-6b"), settings_of("lora", **settings))
    assert str(caught.value) == (
        "target_modules: this model has no linear layer q_proj, v_proj with untied weights; "
        "choose from dense, dense_4h_to_h, dense_h_to_4h, output_layer, query_key_value"
    )


def test_an_unknown_method_is_refused_with_the_choices() -> None:
    with pytest.raises(ParamsError, match="'qlora'; choose from none, ptuning, lora, full"):
        get_method("qlora")
