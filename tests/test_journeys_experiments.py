"""What people do with DVC's experiments, on real runs: several values, queues, sharing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from workspaces import MODEL, ONLY_PTUNING, Workspace

pytestmark = pytest.mark.slow


def test_several_parameters_at_once_rerun_what_any_of_them_affects(workspace: Workspace) -> None:
    jobs = workspace.snakemake_of("dvc", "exp", "run", "-S", "lr=1e-2", "-S", "methods.lora.rank=4")
    assert {job for job in jobs if job.startswith("finetune_model")} == {
        f"finetune_model {MODEL} ptuning",
        f"finetune_model {MODEL} lora",
    }
    changed = workspace.run("dvc", "params", "diff")
    assert "methods.lora.rank" in changed
    assert "pre_seq_len" not in changed


def test_a_run_that_trains_nothing_is_recorded_and_tried_with_other_values(
    workspace: Workspace,
) -> None:
    """DVC wants every folder of dvc.yaml, also those that only trainings write to."""
    workspace.edit("methods", {"none": {}})
    shutil.rmtree(workspace.path / "results")
    assert "recorded in dvc.lock" in workspace.run("snakemake")
    workspace.commit("untuned only")
    jobs = workspace.snakemake_of("dvc", "exp", "run", "-S", "generation.max_new_tokens=6")
    assert jobs == {
        f"generate_predictions {MODEL} none",
        f"score_predictions {MODEL} none",
        "render_report",
    }
    assert workspace.would_run() == set()


def test_a_queue_run_by_two_workers_ends_like_one_after_the_other(workspace: Workspace) -> None:
    before = workspace.trainings()
    workspace.run("dvc", "exp", "run", "--queue", "-S", "lr=1e-2,3e-3")
    workspace.run("dvc", "exp", "run", "--run-all", "-j", "2")
    assert len(workspace.trainings() - before) == 2
    shown = json.loads(workspace.run("dvc", "exp", "show", "--json"))
    experiments = shown[1]["experiments"] or []
    assert len(experiments) == 2
    found = []
    for experiment in experiments:
        data = experiment["revs"][0]["data"]
        metrics = data["metrics"]["results/metrics.json"]["data"][MODEL]
        found.append((data["params"]["params.yaml"]["data"]["lr"], metrics["ptuning"]["bleu-4"]))
    assert sorted(lr for lr, _ in found) == [0.003, 0.01]


def test_an_experiment_is_compared_applied_branched_and_shared(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.run("git", "init", "-q", "--bare", str(tmp_path / "remote.git"))
    workspace.run("git", "remote", "add", "origin", str(tmp_path / "remote.git"))
    workspace.run("dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "remote"))
    workspace.commit("remotes")
    workspace.run("git", "push", "-q", "origin", "main")
    workspace.run("dvc", "exp", "run", "-q", "-S", "lr=1e-2", "--name", "gentle")

    assert f"{MODEL}.ptuning." in workspace.run("dvc", "exp", "diff", "HEAD", "gentle")
    workspace.run("git", "checkout", "-q", ".")
    workspace.run("dvc", "checkout", "-q")
    assert workspace.would_run() == set()
    workspace.run("dvc", "exp", "apply", "gentle")
    assert workspace.params()["lr"] == 0.01
    assert workspace.would_run() == set()

    workspace.run("dvc", "exp", "push", "-q", "origin", "gentle")
    other = Workspace(tmp_path / "other")
    workspace.run("git", "clone", "-q", "-b", "main", str(tmp_path / "remote.git"), str(other.path))
    other.run("dvc", "exp", "pull", "-q", "origin", "gentle")
    other.run("dvc", "exp", "branch", "gentle", "gentle-branch")
    other.run("git", "checkout", "-q", "gentle-branch")
    other.run("dvc", "checkout", "-q")
    assert other.would_run() == set()

    plots = json.loads(workspace.run("dvc", "plots", "diff", "--json", "HEAD", "gentle"))
    for name, series in (("loss", "method"), ("scores", "score")):
        (plot,) = plots["data"][f"results/plots/{name}.csv"]
        assert plot["revisions"] == ["HEAD", "gentle"]
        drawn = json.dumps(plot["content"])
        assert f'"field": "{series}"' in drawn
        assert "<DVC_METRIC" not in drawn


def test_experiments_are_listed_compared_with_what_was_before_and_put_on_a_page(
    workspace: Workspace,
) -> None:
    workspace.run("dvc", "exp", "run", "-q", "-S", "lr=1e-2", "--name", "gentle")
    lines = workspace.run("make", "-s", "-o", "env", "experiments").splitlines()
    (line,) = [line for line in lines if line.startswith("gentle")]
    assert line.split()[:4] == ["gentle", "lr=0.01", MODEL, "/"]
    assert max(map(len, lines)) <= 80

    state = workspace.run("git", "status", "--short")
    now = workspace.run("make", "-s", "-o", "env", "compare", "REV=HEAD")
    named = workspace.run("make", "-s", "-o", "env", "compare", "REV=HEAD", "WITH=gentle")
    rows = [row for row in now.splitlines() if row.startswith(f"| {MODEL}")]
    assert rows == [row for row in named.splitlines() if row.startswith(f"| {MODEL}")]
    assert [row.split(" | ")[1] for row in rows if ", same" not in row] == ["ptuning"]
    assert (workspace.path / ".glmtune/compare/HEAD..gentle.html").is_file()
    best = workspace.run("make", "-s", "-o", "env", "sweep")
    assert f"{MODEL}, ptuning**" in best
    assert (workspace.path / ".glmtune/sweep.html").is_file()
    assert workspace.run("git", "status", "--short") == state
    assert workspace.would_run() == set()


def test_a_git_hook_brings_the_results_of_a_commit(workspace: Workspace) -> None:
    workspace.run("dvc", "install")
    workspace.run("dvc", "exp", "run", "-q", "-S", "lr=1e-2")
    workspace.commit("lower lr")
    workspace.run("git", "checkout", "-q", "HEAD~1")
    assert workspace.would_run() == set()
    workspace.run("git", "checkout", "-q", "main")
    assert workspace.would_run() == set()


def test_collecting_garbage_leaves_what_commits_name(workspace: Workspace) -> None:
    workspace.run("dvc", "exp", "run", "-q", "-S", "lr=1e-2")
    workspace.commit("lower lr")
    workspace.run("dvc", "gc", "--all-commits", "--force", "-q")
    workspace.run("git", "checkout", "-q", "HEAD~1")
    workspace.run("dvc", "checkout", "-q")
    assert workspace.would_run() == set()
    workspace.edit("pre_seq_len", 3)
    assert workspace.would_run() == ONLY_PTUNING
