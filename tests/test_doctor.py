"""What `make doctor` says of a machine or folder that lacks something, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import doctor  # noqa: E402
import doctor_models  # noqa: E402
from doctor_models import GIB  # noqa: E402
from findings import Finding  # noqa: E402

from glmtune.devices import Device  # noqa: E402
from glmtune.errors import WeightsError  # noqa: E402
from glmtune.params.presets import preset_text  # noqa: E402
from glmtune.params.values import Params, read_params  # noqa: E402
from glmtune.workspace.folder import acquire_run_lock  # noqa: E402

MODEL = "chatglm2-6b"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing wrong, which the doctor looks at."""
    for name in ("requirements.lock", "params.yaml", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "state"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setenv("GLMTUNE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50 * GIB))
    return tmp_path


def lacking(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds that is not as it should be."""
    return [finding for finding in check() if finding.fix]


def lock(folder: Path) -> Path:
    file = folder / ".snakemake" / "locks" / "0.output.lock"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


@pytest.mark.parametrize("check", [doctor.parameters, doctor.git_and_dvc, doctor.locks])
def test_nothing_is_found_where_nothing_is_wrong(
    project: Path, check: Callable[[], Iterator[Finding]]
) -> None:
    assert [str(finding)[0] for finding in check()] == ["✓"] * len(list(check()))
    assert list(check())


def test_an_old_python_stops_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    assert lacking(doctor.python) == [Finding("Python 3.10.2", "install 3.11 or newer", stops=True)]


def test_a_missing_package_stops_a_run_and_another_version_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "peft":
            raise PackageNotFoundError(name)
        return "0.0.1" if name == "torch" else found(name)

    found = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", version)
    text = {finding.what: finding for finding in lacking(doctor.packages)}
    assert text["peft is not installed"].stops
    assert not text["torch 0.0.1"].stops
    assert text["torch 0.0.1"].fix.endswith("`make env` installs it")


def test_a_card_that_torch_cannot_use_is_told_from_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert lacking(doctor.gpu) == []
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    (finding,) = lacking(doctor.gpu)
    assert "an NVIDIA driver, but torch" in finding.what
    assert "CUDA build" in finding.fix
    monkeypatch.setitem(sys.modules, "torch", None)  # not installed: told by `packages`
    assert list(doctor.gpu()) == []


def test_every_mistake_in_params_is_told(project: Path) -> None:
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(params.replace("\nlr:", "\nlrr:"), encoding="utf-8")
    (finding,) = doctor.parameters()
    assert finding.stops
    assert "'lrr'" in finding.fix
    (project / "params.yaml").unlink()
    (finding,) = doctor.parameters()
    assert "git checkout params.yaml" in finding.fix


@pytest.fixture
def params(project: Path) -> Params:
    """A preset for real weights, in the doctor's folder."""
    text = preset_text(ROOT, "chatglm2-6b-24gb")
    (project / "params.yaml").write_text(text, encoding="utf-8")
    return read_params(project / "params.yaml")


def with_source(params: Params, **entry: Any) -> Params:
    return Params.of({**params.values, "models": {MODEL: entry}})


@pytest.fixture
def weights(project: Path) -> Path:
    """The folder that the preset names, with files that look whole."""
    folder = project / "weights" / MODEL
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.model", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


def test_a_disk_too_small_for_what_params_ask_is_told(
    params: Params, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = read_params(ROOT / "presets/default.yaml")
    assert [finding.fix for finding in doctor_models.disk(default, project / "store")] == [""]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    (finding,) = doctor_models.disk(params, project / "store")
    assert finding.what == "disk: 1 GiB free, up to about 2 GiB needed"
    assert f"GLMTUNE_STORE to a larger disk (now {project / 'store'})" in finding.fix
    assert not finding.stops


def test_what_is_in_the_hubs_cache_needs_no_disk(
    params: Params, project: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = with_source(params, source="owner/name", revision=40 * "0")
    (before,) = doctor_models.disk(hub, project / "store")
    monkeypatch.setattr(doctor_models, "hub_snapshot", lambda *where, local_only: weights)
    (after,) = doctor_models.disk(hub, project / "store")
    assert before.what.endswith("up to about 13 GiB needed")
    assert after.what.endswith("up to about 2 GiB needed")


def test_whole_weights_are_told_with_their_size(params: Params, weights: Path) -> None:
    (finding,) = doctor_models.weights(params)
    assert finding == Finding(f"{MODEL}: 0.0 GB of weights in {weights}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder; expected one with weights"),
        (lambda folder: (folder / "model.safetensors").unlink(), "found no weights; expected"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json in "),
        (
            lambda folder: (folder / "tokenizer.model").unlink(),
            "no vocabulary (ice_text.model, tok",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs"),
            "a Git-LFS pointer, not the file itself",
        ),
    ],
    ids=["no folder", "no weights", "no config", "no vocabulary", "a pointer"],
)
def test_weights_that_are_not_whole_stop_a_run(
    params: Params, weights: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(weights)
    (finding,) = doctor_models.weights(params)
    assert finding.stops
    assert message in str(finding)
    assert str(weights) in str(finding)


def test_weights_that_will_be_downloaded_are_told(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_cached(*where: str, local_only: bool) -> Path:
        raise WeightsError("not in the cache")

    monkeypatch.setattr(doctor_models, "hub_snapshot", not_cached)
    hub = with_source(params, source="owner/name", revision=40 * "0")
    (finding,) = doctor_models.weights(hub)
    assert finding.what == f"{MODEL}: owner/name is not on this machine yet"
    assert finding.fix.startswith("the first run downloads about 12 GB; without a network, ")
    assert not finding.stops


def test_a_model_from_modelscope_is_downloaded_or_here(
    params: Params, project: Path, weights: Path
) -> None:
    wanted = with_source(params, source=f"modelscope:owner/{MODEL}", revision="v1")
    (finding,) = doctor_models.weights(wanted)
    assert finding.what == f"{MODEL}: modelscope:owner/{MODEL} is not on this machine yet"
    folder = project / "weights/modelscope/owner" / MODEL / "v1"
    shutil.copytree(weights, folder)
    (finding,) = doctor_models.weights(wanted)
    assert finding == Finding(f"{MODEL}: 0.0 GB of weights in {folder}")
    (folder / "model.safetensors").unlink()  # half a download, which a run completes
    (finding,) = doctor_models.weights(wanted)
    assert not finding.stops


@pytest.mark.parametrize(("free", "signs"), [(25e9, "✓✓"), (15e9, "!!"), (9e9, "✗✗")])
def test_memory_is_compared_with_what_each_training_needs(
    params: Params, monkeypatch: pytest.MonkeyPatch, free: float, signs: str
) -> None:
    """As on a card with bfloat16: 12.5 GB of weights, and 3 to 4 GB on top."""
    card = Device("cuda", "bfloat16", "a card")
    monkeypatch.setattr("glmtune.devices.choose_device", lambda: card)
    monkeypatch.setattr("glmtune.tuning.memory_estimate.free_memory", lambda device: free)
    findings = list(doctor_models.memory(params))
    assert [finding.what.split(":")[0] for finding in findings] == [
        "chatglm2-6b, ptuning",
        "chatglm2-6b, lora",
    ]
    assert "".join(str(finding)[0] for finding in findings) == signs
    fixes = "".join(finding.fix for finding in findings)
    assert ("quantization_bit: 4" in fixes) == (signs != "✓✓")


def test_a_random_model_of_few_layers_needs_less_memory(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = with_source(params, source="random", config={"num_layers": 4})
    assert doctor_models.config_of(few, MODEL)["num_layers"] == 4
    assert doctor_models.config_of(params, MODEL)["num_layers"] == 28


def test_miniatures_are_not_looked_at() -> None:
    default = read_params(ROOT / "presets/default.yaml")
    assert [*doctor_models.weights(default), *doctor_models.memory(default)] == []


def test_parquet_data_without_its_reader_stops_a_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train.parquet", "dev.parquet"):
        (project / name).touch()
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    own = "\ndataset: {train: train.parquet, dev: dev.parquet}\n"
    (project / "params.yaml").write_text(
        params.replace("\ndataset: sample\n", own), encoding="utf-8"
    )
    monkeypatch.setattr(doctor, "_installed", lambda package: package != "pyarrow")
    (finding,) = lacking(doctor.parameters)
    assert finding.stops
    assert "[parquet]" in finding.fix


def test_a_folder_without_a_commit_cannot_run_experiments(project: Path) -> None:
    shutil.rmtree(project / ".git")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (finding,) = lacking(doctor.git_and_dvc)
    assert "`dvc exp run` needs one" in finding.fix


def test_an_unpacked_archive_needs_a_repository(project: Path) -> None:
    shutil.rmtree(project / ".git")
    (finding,) = lacking(doctor.git_and_dvc)
    assert finding.what.startswith("no git repository here")
    assert finding.fix == "git init && git add -A && git commit -m start, then dvc commit -f"


def test_a_shallow_clone_loses_experiments(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    second = ["git", *author, "commit", "-q", "--allow-empty", "-m", "second"]
    subprocess.run(second, cwd=project, check=True)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{project}", clone], check=True)
    monkeypatch.setattr(doctor, "ROOT", clone)
    (finding,) = lacking(doctor.git_and_dvc)
    assert "would silently lose queued experiments" in finding.what
    assert finding.fix == "git fetch --unshallow"


def test_a_machine_without_git_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (finding,) = lacking(doctor.git_and_dvc)
    assert finding.what == "git is not installed"


@pytest.mark.parametrize("kind", ["hardlink", "symlink", "reflink,hardlink"])
def test_a_cache_that_shares_files_with_the_results_is_told(project: Path, kind: str) -> None:
    (project / ".dvc" / "config.local").write_text(f"[cache]\n    type = {kind}\n")
    (finding,) = lacking(doctor.git_and_dvc)
    assert finding.what == f"DVC cache type {kind}"
    assert "dvc config --local cache.type reflink,copy" in finding.fix


@pytest.mark.parametrize(
    ("fonts", "found"), [("", "! no Chinese font"), ("/a.ttc: Noto\n", "✓ 1 Chinese fonts")]
)
def test_a_machine_without_a_chinese_font_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fonts: str, found: str
) -> None:
    program = tmp_path / "fc-list"
    program.write_text(f"#!/bin/sh\nprintf '{fonts}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (finding,) = doctor.fonts()
    assert str(finding).startswith(found)


def test_the_lock_of_a_killed_run_is_cleared_and_a_live_run_is_no_failure(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with acquire_run_lock(project):
        file = lock(project)
        (finding,) = lacking(doctor.locks)
        assert str(finding).startswith("! a run is going on in this folder\n    → wait")
        assert doctor.main() == 0
    assert lacking(doctor.locks) == []
    assert not file.exists()
    assert "removing the stale lock of a killed run" in capsys.readouterr().err


def test_the_exit_code_says_whether_a_run_would_stop(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main() == 0
    lock(project)  # nobody on this machine holds it
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "✗ this folder is locked by a run that is not known here" in out
    assert "snakemake --unlock" in out
