"""Folders as other programs save them: names, nesting, shards and partitions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_adapters import write_adapter
from tiny_folders import logits, prompt_ids, write_base

from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prefix import load_prefix, save_prefix
from glmtune.errors import WeightsError
from glmtune.modeling.prefix import attach_prefix

pytestmark = pytest.mark.numeric

HEAD, OFFICIAL_HEAD = "lm_head.weight", "transformer.output_layer.weight"
State = dict[str, Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "chatglm2-6b", "chatglm2-6b")


@pytest.fixture
def state(base: Path) -> State:
    return load_file(base / "model.safetensors")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A model folder without its weights."""
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    return tmp_path


def answers_as(folder: Path, base: Path) -> bool:
    ids = prompt_ids(base)
    return torch.equal(logits(load_model(folder), ids), logits(load_model(base), ids))


def prefixed(start: str) -> Callable[[State], State]:
    return lambda state: {start + name: tensor for name, tensor in state.items()}


SAVERS: dict[str, Callable[[State], State]] = {
    "LLaMA-Factory": lambda state: state | {HEAD: state[OFFICIAL_HEAD].clone()},
    "DistributedDataParallel": prefixed("module."),
    "torch.compile": prefixed("_orig_mod."),
    "compiled in DDP": prefixed("module._orig_mod."),
    "a PEFT model": prefixed("base_model.model."),
    "a trainer": lambda state: {"state_dict": state, "epoch": 3},
    "a nested trainer": lambda state: {"step": 7, "model": {"module": prefixed("module.")(state)}},
    "another name of the head": lambda state: {
        HEAD if name == OFFICIAL_HEAD else name: tensor for name, tensor in state.items()
    },
}


@pytest.mark.parametrize("saver", SAVERS)
def test_names_that_savers_change_are_understood(
    saver: str, folder: Path, base: Path, state: State
) -> None:
    torch.save(SAVERS[saver](state), folder / "pytorch_model.bin")
    assert answers_as(folder, base)


def test_two_different_output_layers_are_both_named(folder: Path, state: State) -> None:
    save_file(state | {HEAD: state[OFFICIAL_HEAD] + 1}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=f"{HEAD} and {OFFICIAL_HEAD} are two names of one"):
        load_model(folder)


def test_an_output_layer_of_another_size_is_refused(folder: Path, state: State) -> None:
    del state[OFFICIAL_HEAD]
    save_file(state | {HEAD: torch.zeros(3, 32)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"lm_head.weight is 3x32; this model expects \d+x32"):
        load_model(folder)


def test_a_duplicate_weight_is_refused(folder: Path, state: State) -> None:
    torch.save(state | prefixed("module.")(state), folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="found it twice; expected each tensor once"):
        load_model(folder)


def test_a_prefix_and_an_adapter_of_a_wrapped_model_load(base: Path, tmp_path: Path) -> None:
    model = load_model(base)
    attach_prefix(model, pre_seq_len=3)
    save_prefix(model, tmp_path / "prefix")
    file = tmp_path / "prefix" / "pytorch_model.bin"
    torch.save(prefixed("module.")(torch.load(file)), file)
    again = load_prefix(load_model(base), tmp_path / "prefix")
    assert torch.equal(again.embedding.weight, model.transformer.prefix_encoder.embedding.weight)


# --- files -----------------------------------------------------------------------------------


def write_shards(folder: Path, state: State, ending: str = "safetensors") -> list[Path]:
    names = sorted(state)
    start = "model" if ending == "safetensors" else "pytorch_model"
    files = [folder / f"{start}-{i:05}-of-00003.{ending}" for i in (1, 2, 3)]
    for i, file in enumerate(files):
        part = {name: state[name] for name in names[i::3]}
        save_file(part, file) if ending == "safetensors" else torch.save(part, file)
    return files


def test_a_complete_set_is_preferred_to_an_incomplete_one(
    folder: Path, base: Path, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    """The small files came with git, the large ones were downloaded by hand."""
    index = {"weight_map": {"a": "model-00001-of-00007.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="1 of 1 files are missing"):
        load_model(folder)
    torch.save(state, folder / "pytorch_model.bin")
    assert answers_as(folder, base)
    assert "reading pytorch_model.bin, because the files of model.safetensors.index.json are" in (
        capsys.readouterr().err
    )


def test_a_complete_set_is_preferred_to_git_lfs_pointers(
    folder: Path, base: Path, state: State
) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="a Git-LFS pointer"):
        load_model(folder)
    write_shards(folder, state, "bin")  # without an index
    assert answers_as(folder, base)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_complete_shards_need_no_index(ending: str, folder: Path, base: Path, state: State) -> None:
    files = write_shards(folder, state, ending)
    assert answers_as(folder, base)
    files[1].unlink()
    with pytest.raises(WeightsError, match=r"found 2 shards like .*; expected 3, .*; download"):
        load_model(folder)


@pytest.mark.parametrize("mark", ["zero_to_fp32.py", "global_step100"])
def test_a_deepspeed_checkpoint_says_how_to_merge_it(folder: Path, mark: str) -> None:
    (folder / mark).touch() if "." in mark else (folder / mark).mkdir()
    with pytest.raises(WeightsError, match=r"merge them with `python zero_to_fp32\.py"):
        load_model(folder)


def test_wrapper_prefixes_are_removed_from_adapters_too(base: Path, tmp_path: Path) -> None:
    plain = write_adapter(tmp_path / "plain", {})
    name = "module.base_model.model.{}.lora_{}.weight"
    wrapped = write_adapter(tmp_path / "wrapped", {}, name=name)
    ids = prompt_ids(base)
    found, expected = (logits(load_model(base, adapter=a), ids) for a in (wrapped, plain))
    assert torch.equal(found, expected)


# --- PEFT's prefixes -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_peft_prefix_gives_the_keys_and_values_of_peft_s_own_class(
    base: Path, tmp_path: Path
) -> None:
    """The prefix is trained and saved as in ChatGLM3's finetune_demo."""
    model: Any = load_model(base)
    shape = model.prefix_shape()
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=5,
        num_layers=shape.layers,
        num_attention_heads=shape.groups,
        token_dim=shape.groups * shape.head_dim,
    )
    theirs = get_peft_model(load_model(base), config)
    theirs.save_pretrained(str(tmp_path / "prefix"), save_embedding_layers=False)
    expected: Any = theirs.get_prompt(batch_size=2)
    encoder = load_prefix(model, tmp_path / "prefix").eval()
    assert encoder.pre_seq_len == 5
    found = encoder(2, torch.float32)
    assert len(found) == shape.layers
    for layer, (key, value) in enumerate(found):
        assert torch.equal(key, expected.layers[layer].keys)
        assert torch.equal(value, expected.layers[layer].values)
    with pytest.raises(WeightsError, match="found 'PREFIX_TUNING'; expected 'LORA'"):
        load_model(base, adapter=tmp_path / "prefix")


def test_a_peft_prefix_for_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    save_file({"prompt_embeddings": torch.zeros(8, 12)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match="found 8x12; this model .* expects 8x"):
        load_prefix(load_model(base), tmp_path)
