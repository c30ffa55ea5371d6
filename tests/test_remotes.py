"""`dvc push` and `dvc pull`: to a folder and to S3, killed in the middle, into a clone."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from workspaces import MODEL, ONLY_PTUNING, Workspace, user_environment, wait_for

pytestmark = pytest.mark.slow

# DVC copies results and Snakemake's records of them: with both there is nothing to run.
PARTS = ["data/dataset", "results/checkpoints", "results/metrics.json", ".snakemake/metadata"]
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def clone_of(workspace: Workspace, folder: Path) -> Workspace:
    """A git clone, which has no data yet."""
    workspace.commit("a remote")
    workspace.run("git", "clone", "-q", str(workspace.path), str(folder))
    assert not (folder / "results" / "checkpoints" / MODEL).exists()
    return Workspace(folder)


def assert_nothing_to_do(clone: Workspace) -> None:
    assert [part for part in PARTS if not (clone.path / part).exists()] == []
    assert clone.would_run() == set()
    clone.edit("pre_seq_len", 3)
    assert clone.would_run() == ONLY_PTUNING


def kill_in_the_middle(
    workspace: Workspace, command: str, files: Callable[[], set[str]], **environment: str
) -> None:
    """Run `dvc push` or `dvc pull` one file at a time, and kill it once a file has arrived."""
    there_before = files()
    run = subprocess.Popen(
        ["dvc", command, "-q", "--jobs", "1"],
        cwd=workspace.path,
        env=user_environment() | environment,
        start_new_session=True,
    )
    wait_for(lambda: bool(files() - there_before))
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def files_in(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file()}


def keys_in(bucket: str) -> set[str]:
    with urllib.request.urlopen(f"{bucket}?list-type=2", timeout=10) as answer:
        return set(re.findall(r"<Key>(.*?)</Key>", answer.read().decode()))


def test_a_killed_push_and_a_killed_pull_go_on(workspace: Workspace, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    workspace.run("dvc", "remote", "add", "-q", "-d", "store", str(remote))
    kill_in_the_middle(workspace, "push", lambda: files_in(remote))
    workspace.run("dvc", "push", "-q")
    assert "new" not in workspace.run("dvc", "status", "--cloud")
    clone = clone_of(workspace, tmp_path / "clone")
    kill_in_the_middle(clone, "pull", lambda: files_in(clone.path / ".dvc" / "cache"))
    clone.run("dvc", "pull", "-q")
    assert_nothing_to_do(clone)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    """The address of an S3 server of this machine, with an empty bucket `bucket`."""
    missing = [name for name in ("dvc_s3", "moto", "flask") if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)} (pip install -e '.[s3]' 'moto[server]')")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def has_a_bucket() -> bool:
        with suppress(OSError):
            request = urllib.request.Request(f"{address}/bucket", method="PUT")
            return bool(urllib.request.urlopen(request, timeout=10).status == 200)
        return False

    try:
        wait_for(has_a_bucket)
        yield address
    finally:
        server.terminate()
        server.wait()


def test_a_killed_push_to_s3_and_a_killed_pull_go_on(
    workspace: Workspace, s3: str, tmp_path: Path
) -> None:
    workspace.run("dvc", "remote", "add", "-q", "-d", "s3", "s3://bucket/glmtune")
    workspace.run("dvc", "remote", "modify", "s3", "endpointurl", s3)
    kill_in_the_middle(workspace, "push", lambda: keys_in(f"{s3}/bucket"), **ACCOUNT)
    workspace.run("dvc", "push", "-q", ok=True, **ACCOUNT)
    clone = clone_of(workspace, tmp_path / "clone")
    cache = clone.path / ".dvc" / "cache"
    kill_in_the_middle(clone, "pull", lambda: files_in(cache), **ACCOUNT)
    clone.run("dvc", "pull", "-q", ok=True, **ACCOUNT)
    assert_nothing_to_do(clone)
