"""Where models come from: every kind of source, and the messages for incomplete ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from file_server import FileServer, publish_on_modelscope, serving, whole
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from tiny_models import prompt, tiny_config

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.prepared import ModelRef, open_prepared
from glmtune.checkpoints.saving import save_model
from glmtune.checkpoints.sources import (
    check_checkpoint,
    check_model,
    fingerprint,
    model_folder,
    open_tokenizer,
    unchanged,
)
from glmtune.errors import ParamsError, UserError, WeightsError
from glmtune.families.registry import FAMILIES
from glmtune.files import hash_folder
from glmtune.miniatures.settings import ModelSettings
from glmtune.steps.inputs_outputs import Outputs
from glmtune.steps.preparing import prepare

FAMILY = "chatglm2-6b"
REVISION = "0123456789" * 4
# Embeddings for the 256 bytes that every vocabulary contains, and some more.
ROOMY = {"padded_vocab_size": 400, "vocab_size": 800}


def roomy_config(family: str) -> dict[str, Any]:
    config = tiny_config(family)
    return config | {key: size for key, size in ROOMY.items() if key in config}


def roomy_model(family: str) -> Any:
    return build_model(roomy_config(family), family, seed=1)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete local model folder, at weights/own in the test's working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "weights/own"
    folder.mkdir(parents=True)
    save_model(roomy_model(FAMILY), folder)
    FAMILIES[FAMILY].train_tokenizer(["颜色是白色。"] * 9, folder, vocab_size=20)
    return folder


def prepared(tmp_path: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    done = tmp_path / "done"
    values: dict[str, Any] = {"family": FAMILY, "seed": 1, **settings}
    outputs = Outputs(out_dir=done, resume_dir=tmp_path / "work")
    prepare(settings=ModelSettings(**values), outputs=outputs)
    return done / "model", json.loads((done / "manifest.json").read_text())


def manifest_of(folder: Path, **settings: Any) -> dict[str, Any]:
    return prepared(folder, **settings)[1]


def test_a_local_folder_is_hashed_but_not_copied(weights: Path, tmp_path: Path) -> None:
    folder, manifest = prepared(tmp_path, source="./weights/own")
    assert [path.name for path in folder.iterdir()] == ["location.json"]
    assert model_folder(folder) == weights
    assert set(manifest["files"]) == {
        "config.json",
        "model.safetensors",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    assert str(tmp_path) not in json.dumps(manifest)
    opened = open_prepared(ModelRef(folder))
    assert opened.num_parameters() == roomy_model(FAMILY).num_parameters()
    assert open_tokenizer(folder, FAMILY).encode("白色")


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "weights (pytorch_model*.bin or model*.safetensors)"),
        ("tokenizer.model", "a vocabulary (ice_text.model, tokenizer.model or tokenizer.json)"),
        (
            "config.json tokenizer.model",
            "config.json; a vocabulary (ice_text.model, tokenizer.model or tokenizer.json)",
        ),
    ],
)
def test_an_incomplete_folder_is_refused_with_everything_that_is_missing(
    weights: Path, tmp_path: Path, missing: str, named: str
) -> None:
    for name in missing.split():
        (weights / name).unlink()
    with pytest.raises(WeightsError) as caught:
        prepared(tmp_path, source="./weights/own")
    expected = f"{weights}: not a complete model folder; missing: {named}; download them"
    assert str(caught.value).startswith(expected)


def test_a_missing_folder_is_named_with_the_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"source './no': no such folder .* a hub id, or models"):
        fingerprint("./no")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model"])
def test_different_content_has_a_different_fingerprint(weights: Path, name: str) -> None:
    """With the same names, sizes and times: a second training writes exactly the same sizes."""
    before = fingerprint("./weights/own")
    swap_a_byte(weights / name)
    after = fingerprint("./weights/own")
    assert {key for key in before if before[key] != after[key]} == {name}


def swap_a_byte(file: Path) -> None:
    times, content = file.stat(), bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_replaced_file_is_refused_before_and_after_the_work(
    weights: Path, tmp_path: Path
) -> None:
    folder, manifest = prepared(tmp_path, source="./weights/own")
    with unchanged(folder, manifest):
        pass
    refused = r"model\.safetensors: found SHA-256 \w{12}…; its manifest has SHA-256 \w{12}…; res"
    with pytest.raises(WeightsError, match=refused), unchanged(folder, manifest):
        swap_a_byte(weights / "model.safetensors")
    with pytest.raises(WeightsError, match=refused), unchanged(folder, manifest):
        pytest.fail("the work began")
    swap_a_byte(weights / "model.safetensors")
    (weights / "pytorch_model.bin").write_bytes(b"another format, which would be read instead")
    with pytest.raises(WeightsError, match=r"bin: found SHA-256 .* has no such file"):
        check_model(folder, manifest)


def test_a_checkpoint_that_differs_from_its_manifest_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"tuned")
    manifest = {"checkpoint": hash_folder(folder)}
    (folder / ".snakemake_timestamp").touch()
    check_checkpoint(folder, manifest)
    swap_a_byte(folder / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"its manifest has .*; remove .*lora and run"):
        check_checkpoint(folder, manifest)


def test_a_hub_model_is_fetched_at_its_commit_without_code(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot_download(name: str, **keywords: Any) -> str:
        asked.append({"name": name, **keywords})
        return str(weights)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    folder, manifest = prepared(tmp_path, source="someone/chatglm2-6b", revision=REVISION)
    assert manifest["source"] == "hub"
    assert {ask["revision"] for ask in asked} == {REVISION}
    assert not any(".py" in pattern for ask in asked for pattern in ask["allow_patterns"])
    assert model_folder(folder) == weights
    assert asked[-1]["local_files_only"]


@pytest.mark.parametrize(
    "failure",
    [
        LocalEntryNotFoundError("cannot find the appropriate snapshot\nsecond line"),
        HFValidationError("Cannot have -- or .. in repo_id"),
        ConnectionError("reset by peer"),
        RuntimeError("Data processing error: request failed"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failed_download_is_one_line_with_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(name: str, **keywords: Any) -> str:
        raise failure

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(WeightsError) as caught:
        prepared(tmp_path, source="someone/chatglm2-6b", revision=REVISION)
    reason = str(failure).splitlines()[0]
    assert str(caught.value) == (
        f"someone/chatglm2-6b at 012345678901: download failed ({type(failure).__name__}: {reason})"
        "; check the name, the revision and the network, or download it another way and set "
        "source to that folder"
    )


def test_results_pulled_without_weights_say_how_to_fetch_them(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **keys: str(weights))
    folder, _ = prepared(tmp_path, source="someone/chatglm2-6b", revision=REVISION)
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(WeightsError, match="fetch it with `snakemake --forcerun prepare_model"):
        model_folder(folder)


ON_MODELSCOPE = {"source": "modelscope:someone/chatglm2-6b", "revision": "v1.0.0"}


@pytest.fixture
def modelscope(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server on this machine that has the model and its code, as v1.0.0."""
    files = {path.name: path.read_bytes() for path in weights.iterdir()}
    files["modeling_chatglm.py"] = b"import os"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        publish_on_modelscope(server, "someone/chatglm2-6b", "v1.0.0", files)
        yield server


def test_a_model_on_modelscope_is_downloaded_once_without_code(
    modelscope: FileServer, weights: Path, tmp_path: Path
) -> None:
    folder, manifest = prepared(tmp_path, **ON_MODELSCOPE)
    assert manifest["source"] == "modelscope"
    assert manifest["files"] == manifest_of(tmp_path / "2", source="./weights/own")["files"]
    assert model_folder(folder) == weights.parent / "modelscope/someone/chatglm2-6b/v1.0.0"
    assert open_prepared(ModelRef(folder)).num_parameters() == roomy_model(FAMILY).num_parameters()
    assert not any("modeling" in path for path in modelscope.asked)
    modelscope.asked.clear()
    assert manifest_of(tmp_path / "3", **ON_MODELSCOPE) == manifest
    assert modelscope.asked == []  # a node without a network computes, too


def test_a_tag_that_moved_on_modelscope_is_refused(
    modelscope: FileServer, weights: Path, tmp_path: Path
) -> None:
    folder, _ = prepared(tmp_path, **ON_MODELSCOPE)
    (model_folder(folder) / "config.json").unlink()
    swap_a_byte(weights / "model.safetensors")
    files = {path.name: path.read_bytes() for path in weights.iterdir()}
    publish_on_modelscope(modelscope, "someone/chatglm2-6b", "v1.0.0", files)
    with pytest.raises(WeightsError, match=r"records model\.safetensors with .* tag can move, a"):
        prepared(tmp_path / "2", **ON_MODELSCOPE)


def test_a_file_of_a_download_that_was_changed_is_named(
    modelscope: FileServer, tmp_path: Path
) -> None:
    folder, _ = prepared(tmp_path, **ON_MODELSCOPE)
    swap_a_byte(model_folder(folder) / "model.safetensors")
    with pytest.raises(WeightsError, match=r"v1\.0\.0/model\.safetensors: found another content"):
        prepared(tmp_path / "2", **ON_MODELSCOPE)


def test_a_revision_that_modelscope_lacks_is_one_message(
    modelscope: FileServer, tmp_path: Path
) -> None:
    listing = "/api/v1/models/someone/chatglm2-6b/repo/files?Revision=v2"
    modelscope.answers[listing] = [whole(json.dumps({"Data": {"Files": None}}).encode())]
    with pytest.raises(WeightsError) as caught:
        prepared(tmp_path, **ON_MODELSCOPE | {"revision": "v2"})
    assert not (tmp_path / "weights/modelscope/someone/chatglm2-6b/v2").exists()
    assert str(caught.value) == (
        f"someone/chatglm2-6b: modelscope ({modelscope.url}): no revision v2; check the name, the "
        "revision and the network; behind a proxy, set HTTPS_PROXY; MODELSCOPE_ENDPOINT names "
        "another address of the site"
    )


def test_results_pulled_without_a_download_say_how_to_fetch_it(
    modelscope: FileServer, tmp_path: Path
) -> None:
    folder, _ = prepared(tmp_path, **ON_MODELSCOPE)
    shutil.rmtree(model_folder(folder))
    with pytest.raises(WeightsError, match="fetch it with `snakemake --forcerun prepare_model"):
        model_folder(folder)


def test_a_full_disk_is_not_blamed_on_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, **keywords: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(OSError, match="No space left"):
        prepared(tmp_path, source="someone/chatglm2-6b", revision=REVISION)


def test_a_random_model_has_a_vocabulary_and_is_identified_by_its_config(
    weights: Path, tmp_path: Path
) -> None:
    config = {"num_layers": 1, **roomy_config(FAMILY)}
    folder, manifest = prepared(
        tmp_path, source="random", config=config, tokenizer="weights/own/tokenizer.model"
    )
    assert manifest["random"]["num_layers"] == config["num_layers"]
    assert open_tokenizer(folder, FAMILY).encode("白色")
    assert open_prepared(ModelRef(folder)).num_parameters() > 0


def test_a_random_model_has_the_real_config_unless_overridden(
    weights: Path, tmp_path: Path
) -> None:
    def manifest(name: str, **changes: Any) -> dict[str, Any]:
        return manifest_of(tmp_path / name, source="random", tokenizer="weights/own", **changes)

    first = manifest("1", config={"num_layers": 1})
    assert first["random"] == FAMILIES[FAMILY].real_config | {"num_layers": 1}
    assert manifest("2", config={"num_layers": 1}) == first
    assert manifest("3", config={"num_layers": 1}, seed=2) != first
    assert manifest("4")["random"] == FAMILIES[FAMILY].real_config


def test_a_random_model_is_the_same_every_time_in_any_folder(weights: Path, tmp_path: Path) -> None:
    folder, _ = prepared(
        tmp_path, source="random", config=roomy_config(FAMILY), tokenizer="weights/own"
    )
    shutil.copytree(folder, tmp_path / "copy")
    refs = (ModelRef(folder), ModelRef(tmp_path / "copy"))
    first, second = (open_prepared(ref).state_dict() for ref in refs)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_missing_vocabulary_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError) as caught:
        prepared(tmp_path, source="random", tokenizer="no/vocabulary")
    assert str(caught.value) == (
        f"{tmp_path / 'no/vocabulary'}: no vocabulary; expected ice_text.model, tokenizer.model or "
        "tokenizer.json"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_every_family_opens(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    FAMILIES[family].train_tokenizer(["颜色是白色。"], tmp_path / "own", vocab_size=20)
    save_model(roomy_model(family), tmp_path / "own")
    folder, manifest = prepared(tmp_path, source="./own", family=family)
    assert FAMILIES[family].tokenizer_class.file_name in manifest["files"]
    assert open_tokenizer(folder, family).encode("白色")
    ids = torch.tensor([prompt([5, 6])])
    with torch.no_grad():
        found = open_prepared(ModelRef(folder))(ids).logits
        assert torch.equal(found, roomy_model(family)(ids).logits)


def test_a_model_of_another_family_is_refused_before_any_training(
    weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, source="./weights/own", family="chatglm-6b")
    assert str(weights) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_family_is_refused_with_the_choices(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=", ".join(FAMILIES)):
        prepared(tmp_path, source="random", family="glm4", tokenizer="weights/own")


def test_a_manifest_identifies_weights_by_content_not_by_path(
    weights: Path, tmp_path: Path
) -> None:
    """So moved weights cause no new training, and changed ones do."""
    here = manifest_of(tmp_path / "1", source="./weights/own")
    there = shutil.copytree(weights, tmp_path / "elsewhere")
    assert manifest_of(tmp_path / "2", source=str(there)) == here
    assert str(tmp_path) not in json.dumps(here)
    with (weights / "tokenizer_config.json").open("a") as out:
        out.write("\n")
    assert manifest_of(tmp_path / "3", source="./weights/own")["files"] != here["files"]


def test_weights_are_found_from_a_moved_workspace_and_from_a_queued_experiment(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path / "results", source="./weights/own")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("weights", "results"):
        (tmp_path / name).rename(moved / name)
    monkeypatch.chdir(moved)
    assert model_folder(moved / "results/done/model") == moved / "weights/own"
    queued = moved / ".dvc/tmp/exps/tmp1"
    shutil.copytree(moved / "results", queued / "results")
    monkeypatch.chdir(queued)
    assert model_folder(queued / "results/done/model") == moved / "weights/own"
    assert fingerprint("./weights/own")


def test_missing_weights_are_named(weights: Path, tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path, source="./weights/own")
    shutil.rmtree(weights)
    with pytest.raises(WeightsError) as caught:
        model_folder(folder)
    assert str(caught.value) == (
        f"{weights}: no such folder; expected a model with config and weights"
    )


def test_other_files_of_a_folder_are_not_the_model(weights: Path) -> None:
    before = fingerprint("./weights/own")
    (weights / "notes.txt").write_text("mine")
    assert fingerprint("./weights/own") == before
    assert fingerprint("miniature") == {}


def test_a_vocabulary_larger_than_the_model_is_refused(weights: Path, tmp_path: Path) -> None:
    save_model(build_model(tiny_config(FAMILY), FAMILY), weights)
    with pytest.raises(WeightsError, match=r"of \d+ tokens for a model with 80 embeddings; use"):
        prepared(tmp_path, source="./weights/own")
