"""What stands around the results: locks, leftovers, provenance, where a workspace belongs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

import psutil
import pytest

from glmtune import workspace
from glmtune.locations import kind_of_source, main_repository, store_folder
from glmtune.params import read_params

ROOT = Path(__file__).resolve().parents[1]


def lock_owned_by(folder: Path, pid: int) -> Path:
    lock = folder / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("results/report.md\n")
    owner = {
        "host": socket.gethostname(),
        "pid": pid,
        "started": psutil.Process(pid).create_time(),
    }
    (folder / workspace.OWNER).write_text(json.dumps(owner))
    return lock


def test_the_lock_of_a_killed_run_is_cleared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock = lock_owned_by(tmp_path, process.pid)
    process.kill()
    process.communicate()
    workspace.clear_stale_lock(tmp_path)
    assert not lock.exists()
    assert f"process {process.pid}" in capsys.readouterr().err


def test_the_lock_of_a_living_run_stays(tmp_path: Path) -> None:
    lock = lock_owned_by(tmp_path, os.getpid())
    workspace.clear_stale_lock(tmp_path)
    assert lock.exists()


def test_a_lock_newer_than_the_note_of_its_owner_stays(tmp_path: Path) -> None:
    """Another run has taken it just now and not yet said so."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock = lock_owned_by(tmp_path, process.pid)
    process.kill()
    process.communicate()
    note = (tmp_path / workspace.OWNER).stat().st_mtime
    os.utime(lock, (note + 1, note + 1))
    workspace.clear_stale_lock(tmp_path)
    assert lock.exists()


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_linked_provenance_becomes_a_private_copy(tmp_path: Path, link) -> None:
    cached = tmp_path / "cached"
    cached.write_text("{}")
    record = tmp_path / ".snakemake/metadata/abc"
    record.parent.mkdir(parents=True)
    link(cached, record)
    workspace.own_provenance(tmp_path)
    record.write_text("rewritten in place")
    assert cached.read_text() == "{}"


def test_prune_removes_what_params_no_longer_name_and_nothing_else(tmp_path: Path) -> None:
    params = read_params(ROOT / "presets/smoke.yaml")
    kept = [
        "results/predictions/chatglm-6b/lora.jsonl",
        "results/scores/chatglm-6b/lora.rows.jsonl",
        "results/checkpoints/chatglm-6b/full/model.safetensors",
        "results/models/chatglm-6b.json",
        "results/report.md",
        "data/tokenized/chatglm-6b/manifest.json",
    ]
    gone = [
        "results/predictions/chatglm-6b/qlora.jsonl",
        "results/predictions/other/lora.jsonl",
        "results/checkpoints/chatglm-6b/qlora/adapter.safetensors",
        "results/models/other.json",
        "results/models/other/config.json",
        "data/tokenized/other/manifest.json",
    ]
    metadata = tmp_path / ".snakemake/metadata"
    metadata.mkdir(parents=True)
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
        (metadata / urlsafe_b64encode(name.encode()).decode()).write_text("{}")
    workspace.prune(tmp_path, params)
    assert [name for name in kept + gone if (tmp_path / name).exists()] == kept
    assert len(list(metadata.iterdir())) == len(kept)


@pytest.mark.parametrize("place", ["", ".dvc/tmp/exps/tmp1", ".dvc/tmp/exps/standalone/tmp1"])
def test_a_queued_experiment_belongs_to_the_repository_that_queued_it(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLMTUNE_STORE", raising=False)
    assert main_repository(tmp_path / place) == tmp_path.resolve()
    assert store_folder(tmp_path / place) == tmp_path.resolve() / ".glmtune/store"


def test_the_store_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLMTUNE_STORE", "/elsewhere")
    assert store_folder(tmp_path) == Path("/elsewhere")


def test_owner_slash_name_is_a_hub_id_unless_it_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind_of_source("weights/chatglm2-6b") == "hub"
    (tmp_path / "weights/chatglm2-6b").mkdir(parents=True)
    assert kind_of_source("weights/chatglm2-6b") == "folder"
    assert kind_of_source("./weights/chatglm2-6b") == "folder"


def test_inside_dvc_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dvc").mkdir()
    monkeypatch.setenv("DVC_STAGE", "workflow")
    monkeypatch.setattr(workspace.subprocess, "run", lambda *a, **k: pytest.fail("ran dvc"))
    workspace.record_in_dvc(tmp_path)
