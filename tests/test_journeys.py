"""Journeys through Snakemake and DVC together, on real runs, as users make them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from workspaces import MODEL, ONLY_PTUNING, Workspace, user_environment, wait_for

pytestmark = pytest.mark.slow


def test_a_run_is_recorded_and_repro_has_nothing_to_do(workspace: Workspace) -> None:
    assert "didn't change" in workspace.run("dvc", "repro")
    assert workspace.run("git", "status", "--porcelain") == ""


def test_an_experiment_trains_only_what_its_parameter_affects(workspace: Workspace) -> None:
    before = workspace.trainings()
    assert workspace.snakemake_of("dvc", "exp", "run", "-S", "lr=1e-2") == ONLY_PTUNING
    assert len(workspace.trainings() - before) == 1
    difference = workspace.run("dvc", "metrics", "diff")
    assert f"{MODEL}.ptuning." in difference
    assert f"{MODEL}.lora." not in difference
    assert "0.02" in workspace.run("dvc", "params", "diff")
    assert workspace.would_run() == set()


def test_an_edit_run_by_snakemake_is_not_run_again_by_an_experiment(workspace: Workspace) -> None:
    workspace.edit("pre_seq_len", 3)
    assert workspace.snakemake("results/report.md") == ONLY_PTUNING
    jobs = workspace.snakemake_of("dvc", "exp", "run", "-S", "generation.max_new_tokens=9")
    assert not any(job.startswith(("finetune_model", "prepare_model")) for job in jobs)


def test_a_value_used_before_trains_nothing(workspace: Workspace) -> None:
    workspace.run("dvc", "exp", "run", "-S", "lr=1e-2")
    before = workspace.trainings()
    workspace.run("dvc", "exp", "run", "-S", "lr=2e-2")
    workspace.run("dvc", "exp", "run", "-S", "lr=1e-2")
    assert workspace.trainings() == before


def test_queued_experiments_share_what_was_trained(workspace: Workspace) -> None:
    workspace.run("dvc", "exp", "run", "-S", "lr=1e-2")
    before = workspace.trainings()
    workspace.run("git", "checkout", "-q", ".")
    workspace.run("dvc", "exp", "run", "--queue", "-S", "lr=1e-2,3e-3")
    workspace.run("dvc", "exp", "run", "--run-all")
    assert len(workspace.trainings() - before) == 1
    shown = workspace.run("dvc", "exp", "show", "--csv")
    assert "0.003" in shown


def test_switching_commits_leaves_nothing_to_do(workspace: Workspace) -> None:
    workspace.run("dvc", "exp", "run", "-S", "lr=1e-2")
    workspace.commit("lower lr")
    workspace.run("git", "checkout", "-q", "HEAD~1")
    workspace.run("dvc", "checkout", "-q")
    assert workspace.would_run() == set()
    workspace.edit("pre_seq_len", 3)
    assert workspace.would_run() == ONLY_PTUNING


def test_a_clone_with_pulled_data_has_nothing_to_do(workspace: Workspace, tmp_path: Path) -> None:
    remote, clone = tmp_path / "remote", Workspace(tmp_path / "elsewhere" / "clone")
    workspace.run("dvc", "remote", "add", "-q", "-d", "store", str(remote))
    workspace.commit("a remote")
    workspace.run("dvc", "push", "-q")
    clone.path.parent.mkdir()
    workspace.run("git", "clone", "-q", str(workspace.path), str(clone.path))
    clone.run("dvc", "pull", "-q")
    assert clone.would_run() == set()
    clone.edit("pre_seq_len", 3)
    assert clone.would_run() == ONLY_PTUNING


def test_metrics_diff_works_in_a_clone_without_data(workspace: Workspace, tmp_path: Path) -> None:
    clone = Workspace(tmp_path / "clone")
    workspace.run("git", "clone", "-q", str(workspace.path), str(clone.path))
    metrics = clone.path / "results/metrics.json"
    values = json.loads(metrics.read_text())
    values[MODEL]["none"]["bleu-4"] += 1
    metrics.write_text(json.dumps(values))
    assert f"{MODEL}.none.bleu-4" in clone.run("dvc", "metrics", "diff")


def test_a_removed_method_leaves_nothing_and_trains_nothing_when_added_again(
    workspace: Workspace,
) -> None:
    entry = workspace.params()["methods"]["lora"]
    before = workspace.trainings()
    workspace.edit("methods.lora", ...)
    assert workspace.snakemake("results/report.md") == {"render_report"}
    left = [path for path in (workspace.path / "results").rglob("*") if "lora" in path.name]
    assert left == []
    assert "lora" not in (workspace.path / "results/report.md").read_text(encoding="utf-8")
    workspace.edit("methods.lora", entry)
    assert f"finetune_model {MODEL} lora" in workspace.snakemake("results/report.md")
    assert workspace.trainings() == before


def test_a_killed_run_is_continued_without_training_again(workspace: Workspace) -> None:
    for method in ("ptuning", "lora", "full"):
        workspace.edit(f"methods.{method}.weight_decay", 0.1)
    before = workspace.trainings()
    killed = subprocess.Popen(
        ["snakemake", "--no-hooks", "results/report.md"],
        cwd=workspace.path,
        env=user_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: workspace.trainings() - before)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = workspace.trainings()
    output = workspace.run("snakemake", "results/report.md")
    assert "removing the stale lock of a killed run" in output
    assert done <= workspace.trainings()
    assert len(workspace.trainings() - before) == 3
    assert workspace.would_run() == set()


def test_a_failed_experiment_keeps_what_it_trained(workspace: Workspace) -> None:
    before = workspace.trainings()
    # PEFT has no layer of that name: lora fails, ptuning does not.
    flags = ["-S", "lr=1e-2", "-S", "methods.lora.target_modules=[no_such_layer]"]
    output = workspace.run("dvc", "exp", "run", *flags, ok=False)
    assert "Traceback" not in output
    *_, job, log, of_dvc = [line for line in output.splitlines() if line.strip()]
    assert job.startswith("✗ ")
    assert f"{MODEL} with lora. error: target_modules: this model has no" in job
    assert log == f"    Full log: logs/finetune_model/{MODEL}/lora.log"
    assert "failed to reproduce 'workflow'" in of_dvc
    done = workspace.trainings()
    assert len(done - before) == 1
    workspace.run("dvc", "exp", "run", *flags, ok=False)
    assert workspace.trainings() == done


def test_what_config_flags_made_is_not_recorded_as_what_params_say(workspace: Workspace) -> None:
    before = workspace.files()
    assert "not recorded" in workspace.run("snakemake", "--config", "lr=5e-3")
    assert workspace.files() != before
    assert workspace.snakemake_of("dvc", "repro") == ONLY_PTUNING
    assert workspace.files() == before


@pytest.mark.parametrize("command", [("snakemake", "results/report.md"), ("dvc", "repro")])
def test_an_edit_during_a_run_is_not_recorded_as_done(
    workspace: Workspace, command: tuple[str, ...]
) -> None:
    workspace.edit("methods.lora", ...)
    lock = (workspace.path / "dvc.lock").read_bytes()
    run = subprocess.Popen(
        command,
        cwd=workspace.path,
        env=user_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: list((workspace.path / ".snakemake/locks").glob("*.lock")))
    workspace.edit("methods.full", ...)
    output, _ = run.communicate()
    assert "params.yaml or code changed during the run. Run the same command again" in output
    assert "Traceback" not in output
    assert (workspace.path / "dvc.lock").read_bytes() == lock
    workspace.run(*command)
    assert set(json.loads((workspace.path / "results/metrics.json").read_text())[MODEL]) == {
        "none",
        "ptuning",
    }
    assert "didn't change" in workspace.run("dvc", "repro")


def test_a_second_run_in_the_same_folder_is_refused(workspace: Workspace) -> None:
    workspace.edit("training.weight_decay", 0.2)
    first = subprocess.Popen(
        ["snakemake", "results/report.md"],
        cwd=workspace.path,
        env=user_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: list((workspace.path / ".snakemake/locks").glob("*.lock")))
    output = workspace.run("snakemake", "results/report.md", ok=False)
    assert "cannot be locked" in output
    assert first.wait() == 0


def test_a_hard_linked_cache_is_never_written_through(workspace: Workspace) -> None:
    workspace.run("dvc", "config", "cache.type", "hardlink")
    workspace.run("dvc", "checkout", "--relink", "-q", "--force")
    workspace.commit("hard links")
    workspace.run("dvc", "exp", "run", "-S", "lr=1e-2")
    cache = workspace.path / ".dvc/cache/files/md5"
    for path in cache.rglob("*"):
        if path.is_file() and not path.name.endswith(".dir"):
            digest = workspace.run("md5sum", str(path)).split()[0]
            assert digest == path.parent.name + path.name
