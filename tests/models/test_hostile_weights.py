"""Weight and vocabulary files damaged by accident or on purpose: one message each."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folders import write_base

from glmtune.checkpoints import loading
from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.saving import save_model
from glmtune.errors import UserError, WeightsError
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES

NAME = "transformer.encoder.layers.0.self_attention.query_key_value.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "chatglm2-6b", "chatglm2-6b")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A model folder without its weights."""
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    return tmp_path


@pytest.fixture
def state(base: Path) -> dict[str, torch.Tensor]:
    return load_file(base / "model.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{folder}/")


# --- an index that points elsewhere -----------------------------------------------------------


def write_index(folder: Path, *names: str) -> None:
    weight_map = {str(i): name for i, name in enumerate(names)}
    content = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(content)


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "{}/model.safetensors", "a/b", "..", "", "shard.bin", "x" * 300],
)
def test_an_index_may_only_name_files_beside_it(folder: Path, base: Path, name: str) -> None:
    name = name.format(base)
    (folder.parent / "model.safetensors").write_bytes(b"elsewhere")
    write_index(folder, name)
    assert refusal(folder).startswith("model.safetensors.index.json: found shard name '")


def test_links_out_of_the_folder_are_refused_except_the_hub_s_own(
    folder: Path, base: Path, tmp_path: Path
) -> None:
    (folder / "model-1.safetensors").symlink_to(base / "model.safetensors")
    write_index(folder, "model-1.safetensors")
    assert "'model-1.safetensors' links to a file outside the folder" in refusal(folder)
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("a" * 40)
    blobs = snapshot.parent.parent / "blobs"
    for each in (snapshot, blobs):
        each.mkdir(parents=True)
    (blobs / "hash").write_bytes((base / "model.safetensors").read_bytes())
    (snapshot / "model-1.safetensors").symlink_to(blobs / "hash")
    (snapshot / "config.json").write_bytes((base / "config.json").read_bytes())
    write_index(snapshot, "model-1.safetensors")
    load_model(snapshot)


# --- tensors that are not weights -------------------------------------------------------------


def as_nested(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nested.nested_tensor([tensor])


def with_one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed.view(-1)[7] = value
        return changed

    return change


TENSORS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "sparse": (lambda t: t.to_sparse(), "a sparse, nested, quantized or empty tensor"),
    "meta": (lambda t: t.to("meta"), "a sparse, nested, quantized or empty tensor"),
    "complex": (lambda t: t.to(torch.complex64), "complex64 values; expected float weights"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "float8_e4m3fn values; expected float weights"),
    "integer": (lambda t: t.to(torch.int64), "int64 values; expected float weights"),
    "bytes": (
        lambda t: t.to(torch.int8),
        "int8 values; expected float weights, or quantization_bit",
    ),
    "boolean": (lambda t: t > 0, "bool values; expected float weights"),
    "NaN": (with_one(float("nan")), "found NaN or infinite values; expected a model"),
    "infinite": (with_one(float("-inf")), "found NaN or infinite values; expected a model"),
    "expanded": (lambda t: torch.zeros(1).expand(1 << 30), "its tensors would take 4,295,"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_that_is_not_a_weight_is_one_message(
    kind: str, folder: Path, state: dict[str, torch.Tensor]
) -> None:
    change, message = TENSORS[kind]
    torch.save(state | {NAME: change(state[NAME])}, folder / "pytorch_model.bin")
    said = refusal(folder)
    assert said.startswith("pytorch_model.bin: ")
    assert message in said


@pytest.mark.parametrize("key", [0, None, ("a",)])
def test_names_that_are_not_text_are_one_message(folder: Path, key: object) -> None:
    torch.save({key: torch.zeros(1)}, folder / "pytorch_model.bin")
    assert "expected a dictionary of tensors" in refusal(folder)


def test_a_dictionary_that_contains_itself_is_one_message(folder: Path) -> None:
    state: dict[str, object] = {}
    state["model"] = state
    torch.save(state, folder / "pytorch_model.bin")
    assert "expected a dictionary of tensors" in refusal(folder)


def test_nan_is_found_in_safetensors_too(folder: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state | {NAME: with_one(float("nan"))(state[NAME])}, folder / "model.safetensors")
    assert f"model.safetensors: {NAME}: found NaN or infinite values" in refusal(folder)


def test_one_tensor_may_have_two_names(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """They share one storage, which torch.save writes once."""
    name = next(iter(state))
    torch.save(state | {"again": state[name]}, folder / "pytorch_model.bin")
    assert "1 unexpected: again" in refusal(folder)


def test_values_too_large_for_the_requested_type_are_one_message(
    folder: Path, state: dict[str, torch.Tensor]
) -> None:
    """bfloat16 reaches 3e38; in float16 such a weight would be infinite."""
    large = {NAME: with_one(1e5)(state[NAME]).bfloat16()}
    save_file(state | large, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=f"{NAME} contains values above 65,504"):
        load_model(folder, dtype="float16")
    assert load_model(folder, dtype="bfloat16").get_parameter(NAME).max() == large[NAME].max()


@pytest.mark.parametrize("name", [NAME, f"{NAME}_scale"])
def test_quantized_bytes_and_floats_are_not_confused(base: Path, folder: Path, name: str) -> None:
    quantized = load_model(base, quantization_bit=8)
    state = {key: tensor.clone() for key, tensor in quantized.state_dict().items()}
    state[name] = state[name].to(torch.float16 if name == NAME else torch.int8)
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"quantization_bit": 8}))
    with pytest.raises(WeightsError, match=f"{name} is \\w+; this model expects"):
        load_model(folder)


# --- pickles that run no code but exhaust resources ---------------------------------------


def bytearray_of(size: int) -> bytes:
    """The pickle of `bytearray(size)`: a few bytes that request all memory."""
    number = size.to_bytes(8, "little")
    return b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + number + b"\x85R."


def doubled_tuples(levels: int) -> bytes:
    """The pickle of {t: 1} where each tuple has the one before it twice: 2 ** levels hashes."""
    tuples = b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(levels))
    return b"\x80\x02)q\x00" + tuples + b"}h%cK\x01s." % levels


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytearray_of(10**11), "found a bytearray"),
        (doubled_tuples(100), "found tuples nested more than 20 levels deep"),
    ],
)
def test_a_pickle_that_exhausts_memory_or_time_is_one_message(
    folder: Path, content: bytes, message: str, is_zip: bool
) -> None:
    file = folder / "pytorch_model.bin"
    if is_zip:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3")
    else:
        begin = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        file.write_bytes(b"".join(pickle.dumps(part, 2) for part in begin) + content)
    assert message in refusal(folder)


# --- sizes that the files cannot hold --------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [{"num_layers": 1000}, {"padded_vocab_size": 10_000_000}, {"ffn_hidden_size": 1_000_000}],
)
def test_sizes_beyond_the_weight_files_are_refused_before_a_model_is_built(
    base: Path, folder: Path, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | sizes))
    monkeypatch.setattr(loading, "_empty_model", lambda *_: pytest.fail("a model was built"))
    said = refusal(folder)
    assert said.startswith("config.json: describes a model with ")
    assert f"weight files hold only {(base / 'model.safetensors').stat().st_size:,} bytes" in said


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_the_sizes_of_every_model_fit_its_own_files(
    family: str, bits: int | None, tmp_path: Path
) -> None:
    folder = write_base(tmp_path, family)
    model = load_model(folder)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert model.config.matrix_weights() == matrices
    save_model(load_model(folder, dtype="float16", quantization_bit=bits), folder)
    load_model(folder)


# --- corrupt files ---------------------------------------------------------------------------


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with some bytes changed, removed, duplicated or zeroed."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8, 64])):
        end = chance.choice([len(changed), min(400, len(changed))])  # a header is at the start
        at = chance.randrange(end)
        kind = chance.randrange(5)
        if kind < 3:
            changed[at] = chance.randrange(256)
        elif kind == 3:
            changed[at : at + chance.randrange(1, 40)] = b""
        else:
            changed[at:at] = changed[at : at + chance.randrange(1, 40)]
        if not changed:
            break
    return bytes(changed)


def read_all(folder: Path) -> None:
    load_model(folder)
    tokenizer = load_tokenizer(folder, "chatglm2-6b")
    tokenizer.decode(tokenizer.encode("颜色是白色，style 3。"))


READERS = {
    "safetensors": "model.safetensors",
    "pickle": "pytorch_model.bin",
    "vocabulary": "tokenizer.model",
    "config": "config.json",
    "index": "model.safetensors.index.json",
}


def write_whole(base: Path, folder: Path, reader: str) -> None:
    """Write a folder in which the file that `reader` reads is used."""
    for path in base.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    state = load_file(base / "model.safetensors")
    if reader == "pickle":
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
    if reader == "index":
        index = {"weight_map": dict.fromkeys(state, "model.safetensors")}
        (folder / READERS[reader]).write_text(json.dumps(index))


def fuzz(folder: Path, reader: str, count: int, seed: int) -> None:
    """Expect a UserError or success, each within seconds."""
    file = folder / READERS[reader]
    content, chance = file.read_bytes(), random.Random(seed)
    for number in range(count):
        file.write_bytes(damaged(content, chance))
        start = time.monotonic()
        try:
            read_all(folder)
        except UserError as error:
            if len(str(error).splitlines()) != 1:
                raise AssertionError(f"try {number}: {error}") from None
        if time.monotonic() - start > 20:
            raise AssertionError(f"try {number}: {time.monotonic() - start:.0f} s")


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_end_in_one_message(reader: str, base: Path, tmp_path: Path) -> None:
    write_whole(base, tmp_path, reader)
    fuzz(tmp_path, reader, 12, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_many_damaged_files_end_in_one_message(reader: str, base: Path, tmp_path: Path) -> None:
    """In a separate process with limited memory: a crash also fails."""
    write_whole(base, tmp_path, reader)
    paths = [str(Path(__file__).parent), *sys.path]
    code = f"""
import pathlib, resource, sys
sys.path[:0] = {paths!r}
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
import test_hostile_weights
test_hostile_weights.fuzz(pathlib.Path({str(tmp_path)!r}), {reader!r}, 600, seed=2)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
