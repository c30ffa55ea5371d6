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

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import doctor  # noqa: E402
from doctor import GIB, Finding  # noqa: E402

from glmtune.workspace import mark_as_running  # noqa: E402


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


def test_a_disk_too_small_for_what_params_ask_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lacking(doctor.parameters) == []  # miniatures
    shutil.copyfile(ROOT / "presets" / "chatglm2-6b-24gb.yaml", project / "params.yaml")
    (project / "weights" / "chatglm2-6b").mkdir(parents=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    (finding,) = lacking(doctor.parameters)
    assert finding.what.startswith("disk: 1 GiB free, up to about ")
    assert f"GLMTUNE_STORE to a larger disk (now {project / 'store'})" in finding.fix
    assert not finding.stops


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


@pytest.mark.parametrize("kind", ["hardlink", "symlink", "reflink,hardlink"])
def test_a_cache_that_shares_files_with_the_results_is_told(project: Path, kind: str) -> None:
    (project / ".dvc" / "config.local").write_text(f"[cache]\n    type = {kind}\n")
    (finding,) = lacking(doctor.git_and_dvc)
    assert finding.what == f"DVC cache type {kind}"
    assert "dvc config --local cache.type reflink,copy" in finding.fix


@pytest.mark.parametrize(("fonts", "found"), [("", "! no font"), ("/a.ttc: Noto\n", "✓ 1 fonts")])
def test_a_machine_without_a_chinese_font_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fonts: str, found: str
) -> None:
    program = tmp_path / "fc-list"
    program.write_text(f"#!/bin/sh\nprintf '{fonts}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (finding,) = doctor.fonts()
    assert str(finding).startswith(found)


def test_the_lock_of_a_killed_run_is_cleared_and_that_of_a_live_one_stops_another(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mark_as_running(project):
        file = lock(project)
        (finding,) = lacking(doctor.locks)
        assert finding.stops
        assert "snakemake --unlock" in finding.fix
    assert lacking(doctor.locks) == []
    assert not file.exists()
    assert "clearing the lock of a killed run" in capsys.readouterr().err


def test_the_exit_code_says_whether_a_run_would_stop(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main() == 0
    lock(project)  # nobody knows by whom
    assert doctor.main() == 1
    assert "✗ this folder is locked" in capsys.readouterr().out
