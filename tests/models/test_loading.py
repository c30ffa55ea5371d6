"""Model folders as users have them: every container and type, and typical defects.

test_weights.py tests single messages; this file follows a user from a download to a model.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import prompt, tiny_config, tiny_model

from glmtune.checkpoints.loading import load_model
from glmtune.errors import WeightsError
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.miniatures.settings import ModelSettings
from glmtune.modeling.precision import BITS
from glmtune.modeling.quantization import quantize_model
from glmtune.steps.inputs_outputs import Outputs
from glmtune.steps.preparing import prepare

FAMILY_NAMES = sorted(FAMILIES)
CONTAINERS = ["pytorch_model.bin", "pytorch_model.bin in shards"]
CONTAINERS += ["model.safetensors", "model.safetensors in shards"]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
IDS = torch.tensor([prompt([5, 9, 33, 12])])
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 1018370\n".format(
    "0" * 64
)

State = dict[str, torch.Tensor]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def official_state(model: Any) -> State:
    """Weights as on hubs, with the extra tensors of official files."""
    state = dict(model.state_dict())
    for key in ("lm_head.weight", "transformer.output_layer.weight"):
        if key in state:
            state[key] = state[key].clone()  # stored under both names, even if tied
    return state | {"transformer.rotary_pos_emb.inv_freq": torch.ones(4)}


def write_folder(
    folder: Path, state: State, config: dict[str, Any], container: str = CONTAINERS[0]
) -> Path:
    """Write a model folder whose weights are in one of CONTAINERS."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    name, _, shards = container.partition(" in ")
    save: Any = save_file if name.endswith("safetensors") else torch.save
    if not shards:
        save(state, folder / name)
        return folder
    stem, suffix = name.rsplit(".", 1)
    files = [f"{stem}-{i}-of-00003.{suffix}" for i in ("00001", "00002", "00003")]
    weight_map = {key: files[i % 3] for i, key in enumerate(sorted(state))}
    for file in files:
        save({key: state[key] for key in state if weight_map[key] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{name}.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ChatGLM2 in three pickled shards."""
    state = official_state(tiny_model("chatglm2-6b"))
    return write_folder(tmp_path / "model", state, tiny_config("chatglm2-6b"), CONTAINERS[1])


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        load_model(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- What loads ------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_container_and_type_gives_the_stored_weights(
    tmp_path: Path, family: str, container: str, stored: str
) -> None:
    model = tiny_model(family).to(DTYPES[stored])
    folder = write_folder(tmp_path, official_state(model), tiny_config(family), container)
    loaded = load_model(folder, family=family)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert torch.equal(logits(loaded), logits(model.float()))
    same = load_model(folder, dtype=stored)
    assert {weight.dtype for weight in same.parameters()} == {DTYPES[stored]}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_quantized_weights_load_from_every_container(
    tmp_path: Path, family: str, container: str, bits: int
) -> None:
    model = tiny_model(family).half()
    quantize_model(model, bits)
    config = tiny_config(family) | {"quantization_bit": bits}
    folder = write_folder(tmp_path, official_state(model), config, container)
    assert torch.equal(logits(load_model(folder)), logits(model.float()))


# --- What is refused -------------------------------------------------------------------------


def test_a_pointer_among_the_shards_is_named(folder: Path) -> None:
    (folder / "pytorch_model-00002-of-00003.bin").write_text(POINTER)
    assert "pytorch_model-00002-of-00003.bin: a Git-LFS pointer, not the file" in refusal(folder)


def test_a_truncated_shard_is_named(folder: Path) -> None:
    shard = folder / "pytorch_model-00003-of-00003.bin"
    shard.write_bytes(shard.read_bytes()[:-100])
    message = refusal(folder)
    assert message.startswith(str(shard))
    assert message.endswith("download it again")


def test_a_web_page_instead_of_a_shard_is_named(folder: Path) -> None:
    shard = folder / "pytorch_model-00001-of-00003.bin"
    shard.write_text("<!doctype html><html>404</html>")
    assert refusal(folder).startswith(str(shard))


@pytest.mark.parametrize("name", ["lfs_pointer_ice_text.model", "lfs_pointer_tokenizer.model"])
def test_git_lfs_pointers_are_explained(samples: Path, tmp_path: Path, name: str) -> None:
    vocabulary = tmp_path / name.removeprefix("lfs_pointer_")
    shutil.copy(samples.parent / "tokenizers" / name, vocabulary)
    with pytest.raises(WeightsError, match="a Git LFS pointer; .*; run `git lfs pull`"):
        load_tokenizer(tmp_path, "chatglm-6b" if "ice" in name else "chatglm2-6b")


def test_quantized_weights_without_quantization_bit_are_refused(tmp_path: Path) -> None:
    model = tiny_model("chatglm2-6b").half()
    quantize_model(model, 4)
    message = refusal(write_folder(tmp_path, official_state(model), tiny_config("chatglm2-6b")))
    assert "int8 values; expected float weights, or quantization_bit in the model's" in message


def test_full_precision_weights_with_quantization_bit_are_refused(tmp_path: Path) -> None:
    model = tiny_model("chatglm2-6b").half()
    config = tiny_config("chatglm2-6b") | {"quantization_bit": 4}
    message = refusal(write_folder(tmp_path, official_state(model), config))
    assert "8 missing: transformer.encoder.layers.0." in message
    assert ".weight_scale" in message
    assert "8 with the wrong shape: " in message


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_folder_of_another_family_is_refused(tmp_path: Path, family: str) -> None:
    other = "chatglm2-6b" if family == "chatglm-6b" else "chatglm-6b"
    state = official_state(tiny_model(other))
    folder = write_folder(tmp_path, state, tiny_config(other))
    message = refusal(folder, family=family)
    assert f"expected {FAMILIES[family].title}" in message


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_weights_beside_the_config_of_another_family_are_refused(
    tmp_path: Path, family: str
) -> None:
    other = "chatglm2-6b" if family == "chatglm-6b" else "chatglm-6b"
    state = official_state(tiny_model(other))
    message = refusal(write_folder(tmp_path, state, tiny_config(family)))
    assert " missing: " in message
    assert " unexpected: " in message
    assert message.count("transformer.") <= 3 * 5


def test_the_first_release_of_chatglm_is_explained(tmp_path: Path) -> None:
    source = tmp_path / "chatglm-6b"
    config = tiny_config("chatglm-6b") | {"vocab_size": 150528, "bos_token_id": 150004}
    write_folder(source, {"transformer.word_embeddings.weight": torch.zeros(2, 2)}, config)
    FAMILIES["chatglm-6b"].train_tokenizer(["红色的裙子。"], source, vocab_size=20)
    settings = ModelSettings(source=str(source), family="chatglm-6b", seed=1)
    outputs = Outputs(out_dir=tmp_path / "done", resume_dir=tmp_path / "work")
    with pytest.raises(WeightsError, match=r"first release of ChatGLM-6B \(vocabulary 150528"):
        prepare(settings=settings, outputs=outputs)
    with pytest.raises(WeightsError, match=r"first release of ChatGLM-6B \(vocabulary 150528"):
        load_model(source)


# --- No code in a folder is run --------------------------------------------------------------


class Malice:
    """Creates a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["whole", "shard", "prefix", "adapter"])
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "plain pickle"])
def test_a_malicious_pickle_runs_nothing(
    folder: Path, tmp_path: Path, kind: str, is_zip: bool
) -> None:
    mark = tmp_path / "was here"
    content = {"a": torch.zeros(1), "b": Malice(mark)}
    part = tmp_path / "part"
    part.mkdir()
    target = {
        "whole": folder / "pytorch_model.bin",
        "shard": folder / "pytorch_model-00001-of-00003.bin",
        "prefix": part / "pytorch_model.bin",
        "adapter": part / "adapter_model.bin",
    }[kind]
    if kind == "whole":
        (folder / "pytorch_model.bin.index.json").unlink()
    if kind == "adapter":
        config = {"peft_type": "LORA", "r": 2, "target_modules": ["query_key_value"]}
        (part / "adapter_config.json").write_text(json.dumps(config))
    if is_zip:
        torch.save(content, target)
    else:
        target.write_bytes(pickle.dumps(content, protocol=2))
    options = {kind: part} if kind in ("prefix", "adapter") else {}
    message = refusal(folder, **options)
    assert message.startswith(str(target))
    assert "not a file of plain tensors" in message or "cannot be read" in message
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malice(mark)))  # an ordinary load would have run it
    assert mark.exists()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_code_named_in_a_config_is_never_imported(tmp_path: Path, family: str) -> None:
    mark = tmp_path / "was here"
    code = f"import os\nos.mkdir({str(mark)!r})\n"
    auto_map = {"AutoConfig": "configuration_chatglm.ChatGLMConfig", "AutoModel": "modeling.Model"}
    model = tiny_model(family)
    config = tiny_config(family) | {"auto_map": auto_map}
    folder = write_folder(tmp_path / "model", official_state(model), config)
    FAMILIES[family].train_tokenizer(["红色的裙子。"], folder, vocab_size=20)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in ("configuration_chatglm", "modeling", "tokenization_chatglm", "__init__"):
        (folder / f"{name}.py").write_text(code)
    assert torch.equal(logits(load_model(folder)), logits(model))
    assert load_tokenizer(folder, family).encode("红")
    assert not mark.exists()
