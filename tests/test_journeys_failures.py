"""What goes wrong on real machines: nothing half-written counts, and the next run mends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from workspaces import (
    MODEL,
    ONLY_PTUNING,
    Workspace,
    kill_everything_in,
    processes_in,
    user_environment,
    wait_for,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB: room to begin, not to end."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def full_disk_under(folder: Path) -> Iterator[Callable[[], None]]:
    """A file system at `folder` without room for more; the function that it yields makes some."""
    content = folder.rename(folder.with_name("content"))
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("mounting a small file system needs root")

    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    try:
        shutil.copytree(content, folder, symlinks=True, dirs_exist_ok=True)
        resize(str(shutil.disk_usage(folder).used))
        yield lambda: resize("1g")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A file or folder that may not be written: root may write all but what is immutable."""
    is_root = os.geteuid() == 0
    tool, lock, unlock = ("chattr", "+i", "-i") if is_root else ("chmod", "a-w", "u+w")
    locking = [tool, "-R", lock, str(path)]
    if not shutil.which(tool) or subprocess.run(locking, capture_output=True).returncode:
        pytest.skip("root can make nothing read-only on this disk")
    try:
        yield
    finally:
        subprocess.run([tool, "-R", unlock, str(path)], check=True)


def test_a_read_only_output_is_named_and_the_next_run_finishes(workspace: Workspace) -> None:
    workspace.edit("lr", 0.01)
    folder = workspace.path / f"results/training/{MODEL}"
    for path in (folder, folder / "ptuning.json"):
        with read_only(path):
            output = workspace.run("snakemake", ok=False)
        assert f"results/training/{MODEL}/ptuning.json" in output
        assert "writable (" in output
        assert "Traceback" not in output
    assert workspace.snakemake() == ONLY_PTUNING
    assert workspace.would_run() == set()


def test_an_unwritable_cache_of_dvc_keeps_the_results_and_says_how_to_record_them(
    workspace: Workspace,
) -> None:
    workspace.edit("methods.lora", ...)
    with read_only(workspace.path / ".dvc/cache/files/md5"):
        output = workspace.run("snakemake", "results/report.md")
    assert "not recorded: DVC failed. Fix the error above, then run snakemake again" in output
    assert "recording it now" in workspace.run("snakemake", "results/report.md")
    assert "didn't change" in workspace.run("dvc", "repro")


def test_a_full_disk_is_named_and_the_next_run_finishes(
    workspace: Workspace, small_disk: Path
) -> None:
    before = workspace.files()
    workspace.edit("lr", 0.01)
    output = workspace.run("snakemake", ok=False, GLMTUNE_STORE=str(small_disk))
    assert "no space left on the disk; free some space and run the command again" in output
    assert "Traceback" not in output
    half = f"results/training/{MODEL}/ptuning.json"
    assert half not in workspace.files() or workspace.files()[half] == before[half]
    assert workspace.snakemake() == ONLY_PTUNING


def test_a_full_disk_under_everything_is_named_and_the_next_run_finishes(
    workspace: Workspace, tmp_path: Path
) -> None:
    elsewhere: dict[str, Any] = {"GLMTUNE_STORE": str(tmp_path / "store")}
    workspace.edit("lr", 0.01)
    with full_disk_under(workspace.path) as make_room:
        output = workspace.run("snakemake", ok=False, **elsewhere)
        assert "free some space" in output
        assert "Traceback" not in output
        make_room()
        workspace.run("snakemake", **elsewhere)
        assert workspace.would_run() == set()


def test_an_unwritable_store_is_one_message(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    workspace.edit("lr", 0.01)
    output = workspace.run("snakemake", ok=False, GLMTUNE_STORE=str(tmp_path / "file" / "store"))
    assert "file/store/owners: part of this path is a file; expected a folder" in output
    assert "Traceback" not in output
    assert workspace.snakemake() == ONLY_PTUNING


def as_from_a_terminal() -> None:
    """Answer the signals of a terminal, also where these tests run in the background of a shell."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def end_a_training(workspace: Workspace, end: Callable[[int], None], *wrapper: str) -> None:
    """Begin a long training with Snakemake, end it on the way; the next run does it anew."""
    workspace.edit("lr", 0.01)
    workspace.edit("methods.ptuning.max_steps", 100_000)
    run = subprocess.Popen(
        [*wrapper, "snakemake"],
        cwd=workspace.path,
        env=user_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=as_from_a_terminal,
    )
    store = workspace.path / ".glmtune" / "store" / "finetune_model"
    try:
        wait_for(lambda: list(store.glob("*/*/checkpoint-*")))
        end(run.pid)
        run.wait(timeout=60)
        wait_for(lambda: not processes_in(workspace.path), seconds=30)
    finally:
        kill_everything_in(workspace.path)  # a training that goes on is a failure, not a burden
        run.wait(timeout=60)
    assert not (workspace.path / f"results/training/{MODEL}/ptuning.json").exists()
    assert not list((workspace.path / ".snakemake" / "locks").glob("*.lock"))
    workspace.edit("methods.ptuning.max_steps", 4)
    assert workspace.snakemake() == ONLY_PTUNING


def test_control_c_leaves_nothing_half_done(workspace: Workspace) -> None:
    # What a terminal sends to all it started.
    end_a_training(workspace, lambda run: os.killpg(run, signal.SIGINT))


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_closed_terminal_leaves_no_training_behind(
    workspace: Workspace, send: Callable[[int, int], None]
) -> None:
    end_a_training(workspace, lambda run: send(run, signal.SIGHUP))


def test_nohup_outlives_its_terminal(workspace: Workspace) -> None:
    def hang_up_then_interrupt(run: int) -> None:
        os.killpg(run, signal.SIGHUP)
        time.sleep(1)  # it would be gone by now
        assert processes_in(workspace.path)
        os.killpg(run, signal.SIGINT)

    end_a_training(workspace, hang_up_then_interrupt, "nohup")


def test_a_power_cut_between_output_and_record_reruns_that_job(workspace: Workspace) -> None:
    """Snakemake marks a job as begun; without its record the output is not believed."""
    workspace.edit("lr", 0.01)
    workspace.snakemake("--until", "finetune_model")
    incomplete = workspace.path / ".snakemake" / "incomplete"
    metadata = workspace.path / ".snakemake" / "metadata"
    newest = max(metadata.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    incomplete.mkdir(exist_ok=True)
    newest.rename(incomplete / newest.name)
    assert workspace.snakemake() == ONLY_PTUNING
    assert workspace.would_run() == set()


def test_the_end_of_the_log_and_its_path_are_the_last_that_is_said(workspace: Workspace) -> None:
    workspace.edit("methods.lora.target_modules", ["no_such_layer"])
    output = workspace.run("snakemake", ok=False)
    assert "\nerror: target_modules: this model has no linear layer no_such_layer" in output
    log = f"logs/finetune_model/{MODEL}/lora.log"
    reason, place = output.splitlines()[-2:]
    assert reason.startswith("✗ ")
    assert f"{MODEL} with lora. error: target_modules: this model has no" in reason
    assert place == f"    Full log: {log}"
    assert (workspace.path / log).is_file()


def test_snakemake_s_own_report_is_complete(workspace: Workspace) -> None:
    workspace.run("snakemake", "--report", "report.html")
    page = (workspace.path / "report.html").read_text(encoding="utf-8")
    assert "results/report.html" in page
    for rule in ("fetch_dataset", "prepare_model", "finetune_model", "score_predictions"):
        assert rule in page
