"""Model folders: which ones load, which are refused, and with which message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapters import write_adapter
from tiny_models import (
    GOLDEN_FAMILIES,
    TOLERANCE,
    golden_error,
    golden_tensors,
    prompt,
    tiny_config,
    tiny_model,
)

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prefix import save_prefix
from glmtune.checkpoints.saving import save_model
from glmtune.devices import Device
from glmtune.errors import ParamsError, ResourceError, WeightsError
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.modeling.prefix import attach_prefix
from glmtune.tuning.registry import METHODS

pytestmark = pytest.mark.numeric

FAMILY_NAMES = sorted(FAMILIES)
VERSIONS = sorted(GOLDEN_FAMILIES)
IDS = torch.tensor([prompt([5, 9, 33, 12])])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved tiny ChatGLM2."""
    save_model(tiny_model("chatglm2-6b"), tmp_path / "model")
    return tmp_path / "model"


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        load_model(folder, **options)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message.removeprefix(str(folder))


# --- what loads ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "asked", "expected"),
    [
        (Device("cpu", "float32", ""), {}, torch.float32),
        (Device("cpu", "bfloat16", ""), {}, torch.bfloat16),
        (Device("cpu", "bfloat16", ""), {"dtype": "float16"}, torch.float16),
        (Device("cuda", "bfloat16", ""), {"device": "cpu"}, torch.float32),
        (Device("cuda", "bfloat16", ""), {"device": "cpu", "dtype": "float16"}, torch.float16),
    ],
)
def test_device_and_dtype_default_to_those_of_the_workflow(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: Device,
    asked: dict[str, Any],
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr("glmtune.checkpoints.loading.choose_device", lambda: device)
    model = load_model(folder, **asked)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows which device would be taken")
def test_a_gpu_is_used_where_the_workflow_uses_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "glmtune.checkpoints.loading.choose_device", lambda: Device("cuda", "float16", "")
    )
    with pytest.raises(ResourceError, match="found cuda; this machine has 0 CUDA devices"):
        load_model(folder)


@pytest.mark.parametrize("version", VERSIONS)
def test_half_precision_shards_load_as_the_whole_file(reference: Path, version: str) -> None:
    model = load_model(reference / version / "checkpoint_sharded")
    whole = load_model(reference / version / "checkpoint")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    for name, tensor in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    tensors = golden_tensors(reference, version, "logits_base")
    assert golden_error(model, version, tensors, "batch3") <= TOLERANCE[version]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_saved_model_loads_unchanged(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    save_model(model, tmp_path)
    again = load_model(tmp_path, family=family)
    assert not again.training
    assert torch.equal(logits(again), logits(model))
    config = json.loads((tmp_path / "config.json").read_text())
    expected = tiny_config(family)
    ours = ("architectures", "torch_dtype")
    assert {k: v for k, v in config.items() if k in expected and k not in ours} == {
        k: v for k, v in expected.items() if k in config and k not in ours
    }
    assert all(tensor.is_leaf for tensor in again.parameters())


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_transformers_saves_loads_too(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_shards_of_safetensors_load(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    save_model(model, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(state)
    weight_map = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({n: state[n] for n in names if weight_map[n] == file}, tmp_path / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_same_seed_builds_the_same_model(family: str) -> None:
    config = tiny_config(family)
    before = torch.random.get_rng_state()
    first, second = (build_model(config, family, seed=7) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(logits(first), logits(second))
    half = build_model(config, family, seed=7, dtype="bfloat16")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("family", "count"),
    [("chatglm-6b", 6_173_286_400), ("chatglm2-6b", 6_243_584_000)],
)
def test_a_real_model_has_the_published_number_of_parameters(family: str, count: int) -> None:
    model = build_model(FAMILIES[family].real_config, family, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_code_in_a_model_folder_never_runs(folder: Path) -> None:
    (folder / "modeling_chatglm.py").write_text("raise SystemExit('the folder ran its code')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"}
    (folder / "config.json").write_text(json.dumps(config))
    load_model(folder)


def test_saving_leaves_other_files_alone(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"vocabulary")
    save_model(tiny_model("chatglm2-6b"), folder)
    assert (folder / "tokenizer.model").read_bytes() == b"vocabulary"


def test_output_layer_of_the_first_family_is_tied_if_equal(tmp_path: Path) -> None:
    model = tiny_model("chatglm-6b")
    save_model(model, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in state
    state["lm_head.weight"] = state["transformer.word_embeddings.weight"].clone()
    save_file(state, tmp_path / "model.safetensors")
    tied = load_model(tmp_path)
    assert tied.lm_head.weight is tied.transformer.word_embeddings.weight
    state["lm_head.weight"] += 1
    save_file(state, tmp_path / "model.safetensors")
    untied = load_model(tmp_path)
    assert not torch.equal(untied.lm_head.weight, untied.transformer.word_embeddings.weight)
    save_model(untied, tmp_path / "again")
    assert torch.equal(logits(load_model(tmp_path / "again")), logits(untied))


def test_a_prefix_inside_a_checkpoint_is_attached(folder: Path) -> None:
    model = tiny_model("chatglm2-6b")
    attach_prefix(model, pre_seq_len=3)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert torch.equal(logits(load_model(folder)), logits(model))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_trainer_checkpoint_loads_despite_its_other_files(tmp_path: Path, family: str) -> None:
    """Official full fine-tuning: half-precision shards, the trainer's state, no copied files."""
    model = tiny_model(family).half()
    folder = tmp_path / "checkpoint-3000"
    folder.mkdir()
    state = model.state_dict() | {"transformer.rotary_pos_emb.inv_freq": torch.ones(4)}
    names = sorted(state)
    weight_map = {n: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, n in enumerate(names)}
    for file in set(weight_map.values()):
        torch.save({n: state[n] for n in names if weight_map[n] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = tiny_config(family) | {"pre_seq_len": None, "prefix_projection": False}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "scheduler.pt"):
        (folder / name).write_bytes(b"never read")
    assert torch.equal(logits(load_model(folder)), logits(model.float()))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_full_fine_tuning_checkpoint_is_self_contained(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    FAMILIES[family].train_tokenizer(["白色的裙子。"], tmp_path / "base", vocab_size=20)
    METHODS["full"].save(model, tmp_path / "full", tmp_path / "base")
    assert torch.equal(logits(load_model(tmp_path / "full")), logits(model))
    assert load_tokenizer(tmp_path / "full", family).encode("裙子")


# --- what is refused -------------------------------------------------------------------------


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no") == ": no such folder; expected one with config.json and weights"


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json: no such file; expected the config.json that" in refusal(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "found no weights; expected pytorch_model.bin or model.safetensors" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_explained(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n"
    (folder / name).write_text(pointer)
    assert f"{name}: a Git-LFS pointer, not the file itself; run `git lfs pull`" in refusal(folder)


@pytest.mark.parametrize("kept", [0, 5, 4000])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_explained(folder: Path, name: str, kept: int) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / name) if name.endswith(".bin") else save_file(state, folder / name)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:kept])
    message = refusal(folder)
    assert name in message
    assert message.endswith("download it again") or "not a file of plain tensors" in message


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "pytorch_model-1.bin").write_bytes(b"x")
    assert "1 of 2 files are missing: pytorch_model-2.bin" in refusal(folder)


def test_a_pickle_that_would_run_code_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.nn.Linear(2, 2)}, folder / "pytorch_model.bin")
    assert "not a file of plain tensors" in refusal(folder)


def test_missing_unexpected_and_misshaped_keys_are_named(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["extra"] = torch.zeros(1)
    state["transformer.output_layer.weight"] = torch.zeros(3, 32)
    for name in [name for name in state if "layers.1" in name]:
        del state[name]
    save_file(state, folder / "model.safetensors")
    message = refusal(folder)
    assert "7 missing: transformer.encoder.layers.1." in message
    assert message.count("layers.1") == 5
    assert "1 unexpected: extra" in message
    assert "1 with the wrong shape: transformer.output_layer.weight is 3x32, not 80x32" in message


def test_another_architecture_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 32}')
    assert "config.json: found model_type 'llama' without the keys of ChatGLM-6B" in refusal(folder)


def test_another_family_is_refused(folder: Path) -> None:
    message = refusal(folder, family="chatglm-6b")
    assert "found a model of another family; expected ChatGLM-6B, whose config has" in message
    load_model(folder, family="chatglm3-6b-base")  # the same architecture


def test_a_config_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json: not a JSON document" in refusal(folder)


def test_prefixes_and_adapters_are_not_taken_for_models(folder: Path, tmp_path: Path) -> None:
    prefixed = tiny_model("chatglm2-6b")
    attach_prefix(prefixed, pre_seq_len=3)
    (folder / "model.safetensors").unlink()
    save_prefix(prefixed, folder)
    assert "found a P-Tuning v2 prefix without a model" in refusal(folder)
    (folder / "config.json").unlink()
    assert "found a P-Tuning v2 prefix; expected a model; pass the folder of" in refusal(folder)
    adapter = write_adapter(tmp_path / "adapter", {})
    assert "found a PEFT adapter; expected a model" in refusal(adapter)


def test_unknown_types_and_devices_are_refused(folder: Path) -> None:
    with pytest.raises(ParamsError, match="expected one of float32, float16, bfloat16"):
        load_model(folder, dtype="float8")
    with pytest.raises(ParamsError, match="expected cpu, cuda or cuda:N"):
        load_model(folder, device="gpu")
    with pytest.raises(ResourceError, match="choose cpu"):
        load_model(folder, device="cuda:99")
