"""LoRA adapters: those of PEFT, trainers and forks load; others are refused with a reason."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny_adapters import write_adapter
from tiny_models import prompt, tiny_model

from glmtune.checkpoints.adapters import load_adapter
from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.saving import save_model
from glmtune.errors import WeightsError
from glmtune.families.registry import FAMILIES

pytestmark = pytest.mark.numeric

IDS = torch.tensor([prompt([5, 9, 33, 12])])
# How savers name a tensor, given the layer's name and A or B.
NAMES = {
    "peft": "base_model.model.{}.lora_{}.weight",
    "bare": "{}.lora_{}.weight",
    "adapter's name": "base_model.model.{}.lora_{}.default.weight",
    "bare with adapter's name": "{}.lora_{}.default.weight",
    "compiled outside": "_orig_mod.base_model.model.{}.lora_{}.weight",
    "compiled inside": "base_model.model._orig_mod.{}.lora_{}.weight",
    "compiled, all": "_orig_mod.base_model.model.{}.lora_{}.default.weight",
}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved tiny ChatGLM2."""
    save_model(tiny_model("chatglm2-6b"), tmp_path / "model")
    return tmp_path / "model"


# --- what loads ------------------------------------------------------------------------------


def test_an_adapter_adds_its_product(folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {})
    state = torch.load(adapter / "adapter_model.bin", weights_only=True)
    model = load_model(folder, adapter=adapter)
    merged = load_model(folder)
    for i, layer in enumerate(merged.transformer.layers):
        name = f"base_model.model.transformer.encoder.layers.{i}.self_attention.query_key_value"
        a, b = (state[f"{name}.lora_{part}.weight"] for part in "AB")
        layer.self_attention.query_key_value.weight.data += 4 / 2 * b @ a
    torch.testing.assert_close(logits(model), logits(merged), atol=1e-4, rtol=1e-4)
    assert not model.training


@pytest.mark.parametrize("file", ["adapter_model.bin", "adapter_model.safetensors"])
@pytest.mark.parametrize("saver", NAMES)
def test_names_of_every_saver_load_in_both_formats(
    folder: Path, tmp_path: Path, saver: str, file: str
) -> None:
    plain = load_model(folder, adapter=write_adapter(tmp_path / "plain", {}))
    other = write_adapter(tmp_path / "other", {}, name=NAMES[saver], file=file)
    assert torch.equal(logits(load_model(folder, adapter=other)), logits(plain))


def test_an_adapter_among_trainer_files_is_found(folder: Path, tmp_path: Path) -> None:
    """Trainers leave optimizer, arguments and a model's weights in the same folder."""
    plain = load_model(folder, adapter=write_adapter(tmp_path / "plain", {}))
    adapter = write_adapter(tmp_path / "checkpoint-500", {})
    torch.save(tiny_model("chatglm2-6b").state_dict(), adapter / "pytorch_model.bin")
    (adapter / "training_args.bin").write_bytes(b"never read")
    assert torch.equal(logits(load_model(folder, adapter=adapter)), logits(plain))


def test_keys_of_old_and_forked_adapter_configs_are_dropped(folder: Path, tmp_path: Path) -> None:
    old: dict[str, Any] = {"merge_weights": False, "enable_lora": None, "loftq_config": {}}
    old["megatron_config"] = None
    plain = load_model(folder, adapter=write_adapter(tmp_path / "plain", {}))
    model = load_model(folder, adapter=write_adapter(tmp_path / "old", old))
    assert torch.equal(logits(model), logits(plain))


def test_adapter_configs_seen_in_the_wild_are_understood(
    samples: Path, folder: Path, tmp_path: Path
) -> None:
    configs = sorted((samples / "adapters" / "configs").glob("*.json"))
    assert configs
    for i, path in enumerate(configs):
        config = json.loads(path.read_text())
        adapter = write_adapter(tmp_path / str(i), config, rank=config["r"])
        load_model(folder, adapter=adapter)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter:UserWarning")
def test_a_real_adapter_fits_the_real_architecture(samples: Path) -> None:
    model = build_model(FAMILIES["chatglm3-6b-base"].real_config, device="meta")
    load_adapter(model, samples / "adapters" / "chatglm3_lora_r4_adgen")
    assert sum(p.numel() for n, p in model.named_parameters() if "lora_" in n) == 974_848


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[True, False, True], [True, True, True]])
def test_an_adapter_of_part_of_a_layer_is_refused(
    folder: Path, tmp_path: Path, parts: list[bool]
) -> None:
    """PEFT once had a layer that tuned queries, keys and values separately, in one tensor pair."""
    adapter = write_adapter(tmp_path / "adapter", {"enable_lora": parts}, fused=48)
    with pytest.raises(WeightsError) as caught:
        load_model(folder, adapter=adapter)
    message = str(caught.value)
    assert "2 tensors do not fit this model" in message
    assert "query_key_value.lora_B.weight: found 48x2, expected 64x2" in message
    assert message.endswith("tunes only parts of query_key_value and is not supported")


def test_other_kinds_of_adapters_are_refused(folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {"peft_type": "PREFIX_TUNING"})
    with pytest.raises(WeightsError, match="found 'PREFIX_TUNING'; expected 'LORA'"):
        load_model(folder, adapter=adapter)
    shutil.rmtree(adapter)
    with pytest.raises(WeightsError, match="adapter: no such folder"):
        load_model(folder, adapter=adapter)


def test_an_adapter_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {})
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(WeightsError, match=r"adapter: found no weights; expected"):
        load_model(folder, adapter=adapter)


# --- adapter_config.json is untrusted ----------------------------------------------------------

CATASTROPHE = "(" * 20 + "a" + "+)+" * 20 + "$"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("r", "4", "r: found '4'; expected a whole number from 1 to 65,536"),
        ("r", 10**9, "r: found 1000000000; expected a whole number"),
        ("r", 64, "found rank 64; expected at most 2, the rank of the adapter's tensors; does"),
        ("rank_pattern", {"dense": 60000}, "found rank 60000; expected at most 2"),
        ("rank_pattern", {CATASTROPHE: 4}, "rank_pattern: found {'(((("),
        ("alpha_pattern", {"dense": "x"}, "alpha_pattern: found {'dense': 'x'}; expected numbers"),
        ("lora_alpha", "x", "lora_alpha: found 'x'; expected a number from"),
        ("lora_alpha", float("nan"), "lora_alpha: found nan; expected a number"),
        ("lora_dropout", 5, "lora_dropout: found 5; expected a number from 0 to 0.999"),
        ("target_modules", 5, "target_modules: found 5; expected a list of module names"),
        ("target_modules", ["(("], "target_modules: found ['((']; expected a list of module"),
        ("target_modules", ["no_such"], "does not fit this model"),
        ("layers_to_transform", [-1], "layers_to_transform: found [-1]; expected layer numbers"),
        ("bias", 3, "bias: found 3; expected none, all or lora_only"),
        ("use_dora", "yes", "use_dora: found 'yes'; expected true or false"),
        ("megatron_config", {"a": 1}, "megatron_config: not supported; expected plain LoRA"),
        ("layer_replication", [[0, 2]], "layer_replication: not supported"),
        ("init_lora_weights", "pissa_niter_4", "which also changed the base model; expected plain"),
        ("modules_to_save", ["transformer"], "found 'transformer'; expected a module with tensors"),
        ("peft_type", ["LORA"], "peft_type: found ['LORA']; expected 'LORA'"),
    ],
)
def test_an_invalid_value_is_refused(
    folder: Path, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", {key: value})
    with pytest.raises(WeightsError) as caught:
        load_model(folder, adapter=adapter)
    said = str(caught.value)
    assert said.startswith(f"{adapter / 'adapter_config.json'}: ")
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "config",
    [
        {"lora_dropout": None, "rank_pattern": None, "bias": None},
        {"runtime_config": {"ephemeral_gpu_offload": True}, "from_a_fork": [1]},
        {"init_lora_weights": "gaussian", "loftq_config": {"loftq_bits": 4}},
        {"target_modules": r".*\.query_key_value"},
        {"target_modules": CATASTROPHE},  # never run: the tensors show what it matched
        {"rank_pattern": {"query_key_value": 2}, "alpha_pattern": {"^.*\\.query_key_value$": 4}},
    ],
    ids=str,
)
def test_keys_of_other_programs_change_nothing(
    folder: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    plain = load_model(folder, adapter=write_adapter(tmp_path / "plain", {}))
    model = load_model(folder, adapter=write_adapter(tmp_path / "other", config))
    assert torch.equal(logits(model), logits(plain))


def test_no_module_that_a_config_names_is_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron" / "evil.py").write_text("open('ran', 'w')\nraise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    adapter = write_adapter(tmp_path / "adapter", {"megatron_core": "megatron.evil"})
    load_model(folder, adapter=adapter)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_no_adapter_config_gives_a_traceback(folder: Path, tmp_path: Path) -> None:
    chance = random.Random(12)
    adapter = write_adapter(tmp_path / "adapter", {})
    original = json.loads((adapter / "adapter_config.json").read_text())
    fields = [field.name for field in dataclasses.fields(LoraConfig)]
    odd: list[Any] = [None, True, 0, -1, 2, 2.5, 1e308, 10**40, "x", "query_key_value", "("]
    odd += [[], {}, [[]]]
    odd += [{"a": {}}, {"query_key_value": 2}, ["query_key_value"], ["dense"], ["word_embeddings"]]
    for _ in range(1500):
        config = dict(original)
        for _ in range(chance.randint(1, 3)):
            config[chance.choice(fields)] = chance.choice(odd)
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        try:
            load_model(folder, adapter=adapter)
        except WeightsError as error:
            message = str(error)
        else:
            message = ""
        assert len(message.splitlines()) <= 1, config
