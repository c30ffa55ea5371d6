"""Model folders: what loads, what is refused, and in which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    GOLDEN_FAMILIES,
    TOLERANCE,
    golden_difference,
    golden_tensors,
    prompt,
    tiny_config,
    tiny_model,
)

from glmtune.errors import ParamsError, ResourceError, WeightsError
from glmtune.families import FAMILIES
from glmtune.prefix import attach_prefix, save_prefix
from glmtune.weights import build_model, load_model, save_model

GENERATIONS = sorted(FAMILIES)
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


@pytest.mark.parametrize("version", VERSIONS)
def test_half_precision_shards_load_as_the_whole_file(reference: Path, version: str) -> None:
    model = load_model(reference / version / "checkpoint_sharded")
    whole = load_model(reference / version / "checkpoint")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    for name, tensor in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    tensors = golden_tensors(reference, version, "logits_base")
    assert golden_difference(model, version, tensors, "batch3") <= TOLERANCE[version]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_saved_model_loads_as_it_was(tmp_path: Path, generation: str) -> None:
    model = tiny_model(generation)
    save_model(model, tmp_path)
    again = load_model(tmp_path, generation=generation)
    assert not again.training
    assert torch.equal(logits(again), logits(model))
    config = json.loads((tmp_path / "config.json").read_text())
    expected = tiny_config(generation)
    ours = ("architectures", "torch_dtype")
    assert {k: v for k, v in config.items() if k in expected and k not in ours} == {
        k: v for k, v in expected.items() if k in config and k not in ours
    }
    assert all(tensor.is_leaf for tensor in again.parameters())


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_transformers_saves_loads_too(tmp_path: Path, generation: str) -> None:
    model = tiny_model(generation)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_shards_of_safetensors_load(tmp_path: Path, generation: str) -> None:
    model = tiny_model(generation)
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


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_same_seed_builds_the_same_model(generation: str) -> None:
    config = tiny_config(generation)
    before = torch.random.get_rng_state()
    first, second = (build_model(config, generation, seed=7) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(logits(first), logits(second))
    half = build_model(config, generation, seed=7, dtype="bfloat16")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("generation", "count"),
    [("chatglm-6b", 6_173_286_400), ("chatglm2-6b", 6_243_584_000)],
)
def test_a_real_model_has_the_published_number_of_parameters(generation: str, count: int) -> None:
    model = build_model(FAMILIES[generation].real_config, generation, device="meta")
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


def test_output_layer_of_the_first_generation_is_tied_if_equal(tmp_path: Path) -> None:
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


# --- what is refused -------------------------------------------------------------------------


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no") == ": no such folder; expected one with config.json and weights"


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json: no such file; expected the config.json that" in refusal(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights in it; expected pytorch_model.bin or model.safetensors" in refusal(folder)


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
    assert "1 of another shape: transformer.output_layer.weight is 3x32, not 80x32" in message


def test_another_architecture_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 32}')
    assert "config.json: model_type 'llama' without the keys of ChatGLM-6B" in refusal(folder)


def test_another_generation_is_refused(folder: Path) -> None:
    message = refusal(folder, generation="chatglm-6b")
    assert "a model of another generation; expected ChatGLM-6B: its config has" in message
    load_model(folder, generation="chatglm3-6b-base")  # the same architecture


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_layers", 0, "num_layers: found 0; expected a positive integer"),
        ("rmsnorm", False, "rmsnorm: found False; only True is supported"),
        ("quantization_bit", 3, "quantization_bit: found 3; expected 0, 4 or 8"),
    ],
)
def test_a_config_value_that_cannot_be_is_refused(
    folder: Path, key: str, value: Any, message: str
) -> None:
    config = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(json.dumps(config))
    assert message in refusal(folder)


def test_a_config_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json: not a JSON document" in refusal(folder)


def test_parts_of_a_model_are_told_from_a_model(folder: Path, tmp_path: Path) -> None:
    prefixed = tiny_model("chatglm2-6b")
    attach_prefix(prefixed, pre_seq_len=3)
    (folder / "model.safetensors").unlink()
    save_prefix(prefixed, folder)
    assert "holds a P-Tuning v2 prefix and no model" in refusal(folder)
    adapter = write_adapter(tmp_path / "adapter", {})
    assert "a PEFT adapter, not a model" in refusal(adapter)


def test_unknown_types_and_devices_are_refused(folder: Path) -> None:
    with pytest.raises(ParamsError, match="expected one of float32, float16, bfloat16"):
        load_model(folder, dtype="float8")
    with pytest.raises(ParamsError, match="expected cpu, cuda or cuda:N"):
        load_model(folder, device="gpu")
    with pytest.raises(ResourceError, match="choose cpu"):
        load_model(folder, device="cuda:99")


# --- adapters --------------------------------------------------------------------------------


def write_adapter(folder: Path, config: dict[str, Any], rank: int = 2, fused: int = 64) -> Path:
    """A PEFT folder with random weights for the tiny ChatGLM2."""
    folder.mkdir(parents=True)
    values = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 4,
        "target_modules": ["query_key_value"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(values | config))
    torch.manual_seed(3)
    state = {}
    for i in range(2):
        name = f"base_model.model.transformer.encoder.layers.{i}.self_attention.query_key_value"
        state[f"{name}.lora_A.weight"] = torch.randn(rank, 32)
        state[f"{name}.lora_B.weight"] = torch.randn(fused, rank)
    torch.save(state, folder / "adapter_model.bin")
    return folder


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


def test_keys_of_old_and_forked_adapter_configs_are_dropped(folder: Path, tmp_path: Path) -> None:
    old = {"merge_weights": False, "enable_lora": None, "loftq_config": {}, "megatron_config": None}
    plain = load_model(folder, adapter=write_adapter(tmp_path / "plain", {}))
    model = load_model(folder, adapter=write_adapter(tmp_path / "old", old))
    assert torch.equal(logits(model), logits(plain))


def test_adapter_configs_seen_in_the_wild_are_understood(
    reference: Path, folder: Path, tmp_path: Path
) -> None:
    configs = sorted((reference.parent / "samples" / "adapters" / "configs").glob("*.json"))
    assert configs
    for i, path in enumerate(configs):
        config = json.loads(path.read_text())
        adapter = write_adapter(tmp_path / str(i), config, rank=config["r"])
        load_model(folder, adapter=adapter)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter:UserWarning")
def test_a_real_adapter_fits_the_real_architecture(reference: Path) -> None:
    from glmtune.adapters import load_adapter

    adapter = reference.parent / "samples" / "adapters" / "chatglm3_lora_r4_adgen"
    model = build_model(FAMILIES["chatglm3-6b-base"].real_config, device="meta")
    load_adapter(model, adapter)
    assert sum(p.numel() for n, p in model.named_parameters() if "lora_" in n) == 974_848


def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {"enable_lora": [True, False, True]}, fused=48)
    with pytest.raises(WeightsError) as caught:
        load_model(folder, adapter=adapter)
    message = str(caught.value)
    assert "2 tensors do not fit this model" in message
    assert "query_key_value.lora_B.weight: found 48x2, expected 64x2" in message
    assert message.endswith("enable_lora, which tunes only parts of query_key_value: not supported")


def test_other_kinds_of_adapters_are_refused(folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {"peft_type": "PREFIX_TUNING"})
    with pytest.raises(WeightsError, match="found 'PREFIX_TUNING'; expected 'LORA'"):
        load_model(folder, adapter=adapter)
    shutil.rmtree(adapter)
    with pytest.raises(WeightsError, match="adapter: no such folder"):
        load_model(folder, adapter=adapter)
