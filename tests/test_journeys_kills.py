"""A kill at any moment of recording, in either engine: the next run makes everything agree."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workspaces import Workspace, kill_everything_in, new_workspace, user_environment, wait_for

from glmtune.workspace.recording import MARK

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]
# Drawn once, so that a failure can be repeated.
MOMENTS = random.Random(7)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A recorded state of lr 0.02, and all results of lr 0.01 in the store: a run is quick."""
    workspace = new_workspace(tmp_path_factory.mktemp("start") / "project")
    methods = workspace.params()["methods"]
    workspace.edit("methods", {name: methods[name] for name in ("none", "ptuning")})
    for lr in (0.01, 0.02):
        workspace.edit("lr", lr)
        workspace.snakemake("--cores", "2", "results/report.md")
    workspace.commit("first results")
    return workspace


@pytest.fixture
def workspace(start: Workspace, tmp_path: Path) -> Workspace:
    return start.copy_to(tmp_path / "project")


def start_command(workspace: Workspace, *command: str) -> subprocess.Popen[bytes]:
    """Start a command in the background; what it says is in the file `said`."""
    with (workspace.path.parent / "said").open("wb") as said:
        return subprocess.Popen(
            command,
            cwd=workspace.path,
            env=user_environment() | {"PYTHONUNBUFFERED": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
        )


def kill(workspace: Workspace, run: subprocess.Popen[bytes]) -> None:
    for _ in range(2):  # what a process started while the first look was taken
        kill_everything_in(workspace.path)
    run.wait()


def kill_before_recording(workspace: Workspace, seconds: float = 0) -> None:
    """Run Snakemake with lr 0.01; kill it so long after the last step."""
    workspace.edit("lr", 0.01)
    run = start_command(workspace, "snakemake", "results/report.md")
    said = workspace.path.parent / "said"
    wait_for(lambda: b"The report is" in said.read_bytes())
    time.sleep(seconds)
    kill(workspace, run)


def is_marked(workspace: Workspace) -> bool:
    return (workspace.path / MARK).exists()


def remove_git_lock(workspace: Workspace) -> None:
    """As git asks its user to: a kill while DVC has git write leaves the lock of its index."""
    (workspace.path / ".git" / "index.lock").unlink(missing_ok=True)


def assert_all_agree(workspace: Workspace) -> None:
    """Results, dvc.lock and what git holds are one state, here and in a clone."""
    assert workspace.would_run() == set()
    assert json.loads(workspace.run("dvc", "status", "--json").splitlines()[-1]) == {}
    assert not is_marked(workspace)
    workspace.commit()
    number = len(list(workspace.path.parent.glob("clone-*")))
    clone = Workspace(workspace.path.parent / f"clone-{number}")
    workspace.run("git", "clone", "-q", str(workspace.path), str(clone.path))
    clone.run("dvc", "cache", "dir", "--local", str(workspace.path / ".dvc" / "cache"))
    clone.run("dvc", "checkout", "-q")
    assert clone.files() == workspace.files()
    assert clone.would_run() == set()


@pytest.mark.parametrize("seconds", [0, *(MOMENTS.uniform(0, 0.6) for _ in range(2))])
def test_a_run_killed_while_it_records_is_recorded_by_the_next_one(
    workspace: Workspace, seconds: float
) -> None:
    kill_before_recording(workspace, seconds)
    assert workspace.snakemake("results/report.md") == set()
    assert_all_agree(workspace)
    workspace.run("dvc", "exp", "run", "-S", "lr=2e-2")
    assert workspace.snakemake("results/report.md") == set()
    assert_all_agree(workspace)


@pytest.mark.parametrize("seconds", [MOMENTS.uniform(0.5, 6) for _ in range(3)])
def test_an_experiment_killed_at_any_moment_is_made_up_for(
    workspace: Workspace, seconds: float
) -> None:
    run = start_command(workspace, "dvc", "exp", "run", "-S", "lr=1e-2")
    time.sleep(seconds)
    kill(workspace, run)
    remove_git_lock(workspace)
    workspace.snakemake("results/report.md")
    assert_all_agree(workspace)
    workspace.run("dvc", "exp", "run", "-S", "lr=1e-2")
    workspace.snakemake("results/report.md")
    assert workspace.params()["lr"] == 0.01
    assert_all_agree(workspace)


@pytest.mark.parametrize("seconds", [MOMENTS.uniform(2, 8) for _ in range(2)])
def test_a_queue_killed_at_any_moment_leaves_the_workspace_as_it_was(
    workspace: Workspace, seconds: float
) -> None:
    workspace.run("dvc", "exp", "run", "--queue", "-S", "lr=1e-2")
    run = start_command(workspace, "dvc", "exp", "run", "--run-all")
    time.sleep(seconds)
    kill(workspace, run)
    remove_git_lock(workspace)
    assert workspace.snakemake("results/report.md") == set()
    assert_all_agree(workspace)
    workspace.run("dvc", "exp", "run", "-S", "lr=1e-2")
    workspace.snakemake("results/report.md")
    assert_all_agree(workspace)


@pytest.mark.parametrize("length", [0, 100])
def test_a_lock_that_dvc_was_killed_writing_is_written_anew(
    workspace: Workspace, length: int
) -> None:
    kill_before_recording(workspace)
    lock = workspace.path / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[:length])
    assert "dvc.lock is incomplete" in workspace.run("snakemake", "results/report.md")
    assert_all_agree(workspace)


def test_what_records_nothing_records_no_killed_run_either(workspace: Workspace) -> None:
    kill_before_recording(workspace)
    lock = (workspace.path / "dvc.lock").read_bytes()
    for flags in (
        ("-n",),
        ("results/scores/chatglm2-6b/none.json",),
        ("--until", "score_predictions"),
        ("--config", "lr=1e-2"),
    ):
        assert workspace.snakemake(*flags) == set()
        assert (workspace.path / "dvc.lock").read_bytes() == lock
        assert is_marked(workspace)
    assert "recording it now" in workspace.run("snakemake")
    assert_all_agree(workspace)


def test_an_edit_after_the_kill_is_run_and_recorded(workspace: Workspace) -> None:
    kill_before_recording(workspace)
    workspace.edit("lr", 0.02)
    assert "render_report" in workspace.snakemake("results/report.md")
    assert_all_agree(workspace)


def test_an_edit_that_reruns_nothing_is_explained(workspace: Workspace) -> None:
    kill_before_recording(workspace)
    with (workspace.path / "params.yaml").open("a", encoding="utf-8") as params:
        params.write("# a comment\n")
    said = workspace.run("snakemake", "results/report.md")
    assert "params.yaml or code changed since" in said
    workspace.run("dvc", "commit", "-f")
    assert "not recorded" not in workspace.run("snakemake", "results/report.md")
    assert_all_agree(workspace)


def test_a_method_removed_after_the_kill_is_pruned_and_recorded(workspace: Workspace) -> None:
    kill_before_recording(workspace)
    workspace.edit("methods.ptuning", ...)
    assert workspace.snakemake("results/report.md") == {"render_report"}
    assert_all_agree(workspace)


def test_another_commit_checked_out_after_the_kill_stays_what_it_was(workspace: Workspace) -> None:
    before = workspace.files()
    kill_before_recording(workspace)
    lock = (workspace.path / "dvc.lock").read_bytes()
    workspace.run("git", "checkout", "-q", ".")
    workspace.run("dvc", "checkout", "-q", "--force")
    output = workspace.run("snakemake", "results/report.md")
    assert "recorded" not in output
    assert not is_marked(workspace)
    assert (workspace.path / "dvc.lock").read_bytes() == lock
    assert workspace.files() == before
    assert_all_agree(workspace)


def test_an_experiment_is_not_recorded_a_second_time(workspace: Workspace) -> None:
    workspace.run("dvc", "exp", "run", "-S", "lr=1e-2")
    assert is_marked(workspace)  # DVC had yet to record it as Snakemake ended
    assert "recorded" not in workspace.run("snakemake", "results/report.md")
    assert_all_agree(workspace)


def test_a_killed_run_of_one_checkout_is_nothing_to_another(
    workspace: Workspace, tmp_path: Path
) -> None:
    other = workspace.copy_to(tmp_path / "other" / "project")
    kill_before_recording(workspace)
    assert "recorded" not in other.run("snakemake", "results/report.md")
    assert other.run("git", "status", "--porcelain") == ""
    assert is_marked(workspace)
