"""Journeys on a real Slurm: jobs that work, fail, are cancelled, or take too much memory."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretended_gpus import TWO_CARDS, A, machine_with
from slurm_cluster import slurm_of_two_nodes, what_is_missing
from workspaces import (
    MODEL,
    ONLY_PTUNING,
    ROOT,
    Workspace,
    new_workspace,
    user_environment,
    wait_for,
)

from glmtune.files import read_json

TRAINING = f"results/training/{MODEL}/ptuning.json"
RUNTIME = f"results/runtime/finetune_model/{MODEL}/ptuning.json"
LOG = f"logs/finetune_model/{MODEL}/ptuning.log"


def profile(name: str, folder: Path = ROOT) -> dict[str, Any]:
    text = (folder / "profiles" / name / "config.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def test_the_profile_of_a_cluster_only_adds_to_the_default_one() -> None:
    """Where both have a value, Snakemake takes that of profiles/default."""
    assert not profile("slurm").keys() & profile("default").keys()


def test_the_steps_that_use_a_gpu_ask_slurm_for_one() -> None:
    _, *rules = (ROOT / "Snakefile").read_text(encoding="utf-8").split("\nrule ")
    use_gpu = {rule.partition(":")[0] for rule in rules if re.search(r"gpu=.*RUN.gpus_", rule)}
    use_gpu.remove("prepare_model")  # only to train miniatures
    asked = {
        value.partition(":")[0] for value in profile("slurm")["set-resources"] if ":gpu=1" in value
    }
    assert asked == use_gpu


@dataclass(frozen=True)
class Cluster:
    """A workspace whose `snakemake` runs its steps on a Slurm."""

    workspace: Workspace
    environment: dict[str, str]

    def run(self, *command: str, ok: bool = True) -> str:
        return self.workspace.run(*command, ok=ok, **self.environment)

    def copy_to(self, folder: Path) -> Cluster:
        return Cluster(self.workspace.copy_to(folder), self.environment)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user of a cluster whose nodes have one, pretended, GPU each."""
    if reason := what_is_missing():
        pytest.skip(f"no Slurm to try: {reason}")
    machine = tmp_path_factory.mktemp("machine")
    path = machine_with(TWO_CARDS, machine)["PATH"]
    with slurm_of_two_nodes(tmp_path_factory.mktemp("slurm"), path) as environment:
        yield {**environment, "SNAKEMAKE_PROFILE": "profiles/slurm", "TMPDIR": str(machine)}


@pytest.fixture(scope="module")
def finished(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster on which the whole workflow has run; its state is committed to git."""
    workspace = new_workspace(tmp_path_factory.mktemp("on_slurm") / "project")
    methods = workspace.params()["methods"]
    workspace.edit("methods", {name: methods[name] for name in ("none", "ptuning")})
    workspace.edit("methods.ptuning.prefix_dropout", 0.0)  # each process would draw its own masks
    _fit_to_a_small_node(workspace.path)
    workspace.commit("the profile of this cluster")
    cluster = Cluster(workspace, slurm)
    cluster.run("snakemake", "results/report.md")
    workspace.commit("first results")
    return cluster


@pytest.fixture
def cluster(finished: Cluster, tmp_path: Path) -> Cluster:
    """A copy of it."""
    return finished.copy_to(tmp_path / "project")


def _fit_to_a_small_node(folder: Path, *more: str) -> None:
    """Edit the profile as a user would: less memory, shorter waits, no accounting on this Slurm.

    `more` are further resources.
    """
    values = profile("slurm", folder)
    values["set-resources"] = [v.replace("=64000", "=4000") for v in values["set-resources"]]
    values["set-resources"] += more
    values["default-resources"] = ["mem_mb=4000", "runtime=60"]
    values |= {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 2}
    text = yaml.safe_dump(values)
    (folder / "profiles" / "slurm" / "config.yaml").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_the_whole_workflow_runs_on_slurm(finished: Cluster) -> None:
    assert finished.workspace.would_run() == set()
    assert f"GPU: {A}\n" in (finished.workspace.path / LOG).read_text(encoding="utf-8")
    assert "didn't change" in finished.workspace.run("dvc", "repro")


@pytest.mark.slow
def test_two_nodes_train_one_model_as_one_does(cluster: Cluster, tmp_path: Path) -> None:
    workspace = cluster.workspace
    alone = read_json(workspace.path / TRAINING)
    workspace.edit("methods.ptuning.launcher", {"processes": "all", "sharding": "none"})
    text = (ROOT / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8")
    lines = re.findall(r"# - (finetune_model:(?!slurm).*)", text)  # as they are, but smaller
    assert any("gpu=16" in line for line in lines)
    small = {"gpu=16": "gpu=2", "cpus_per_task=8": "cpus_per_task=2"}
    for large, fitting in small.items():
        lines = [line.replace(large, fitting) for line in lines]
    _fit_to_a_small_node(workspace.path, *lines)
    assert workspace.snakemake("-n", TRAINING) == set()
    (workspace.path / TRAINING).unlink()
    empty_store = {"GLMTUNE_STORE": str(tmp_path / "store")}
    output = Cluster(workspace, cluster.environment | empty_store).run("snakemake", TRAINING)
    assert output.count("has been submitted with SLURM jobid") == 1
    assert (workspace.path / LOG).read_text(encoding="utf-8").count(f"GPU: {A}\n") == 2
    together = read_json(workspace.path / TRAINING)
    for loss in ("train_loss", "dev_loss"):
        assert together[loss] == pytest.approx(alone[loss], rel=1e-5)
    runtime = read_json(workspace.path / RUNTIME)
    assert (runtime["processes"], runtime["machines"]) == (2, 2)


@pytest.mark.slow
def test_an_experiment_runs_on_slurm_what_its_parameter_affects(cluster: Cluster) -> None:
    output = cluster.run("dvc", "exp", "run", "-S", "lr=1e-2")
    assert output.count("has been submitted with SLURM jobid") == len(ONLY_PTUNING)
    assert f"{MODEL}.ptuning." in cluster.workspace.run("dvc", "metrics", "diff")


@pytest.mark.slow
def test_a_failing_job_says_why_and_stops_no_other(cluster: Cluster) -> None:
    lora = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["methods"]["lora"]
    cluster.workspace.edit("methods.lora", lora | {"target_modules": ["no_such_layer"]})
    cluster.workspace.edit("methods.ptuning.weight_decay", 0.1)
    targets = [TRAINING, TRAINING.replace("ptuning", "lora")]
    output = cluster.run("snakemake", *targets, ok=False)
    assert "error: target_modules: this model has no" in output
    assert "Traceback" not in output
    assert cluster.workspace.snakemake("-n", targets[0]) == set()


@pytest.mark.slow
def test_a_cancelled_job_is_reported_and_leaves_its_checkpoints(cluster: Cluster) -> None:
    cluster.workspace.edit("methods.ptuning.max_steps", 2000)
    run = subprocess.Popen(
        ["snakemake", TRAINING],
        cwd=cluster.workspace.path,
        env=user_environment() | cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    store = cluster.workspace.path / ".glmtune" / "store"
    wait_for(lambda: list(store.rglob("checkpoint-*/trainer_state.json")), seconds=600)
    cluster.run("scancel", "--partition", "main")
    output, _ = run.communicate(timeout=600)
    assert run.returncode != 0
    assert "CANCELLED" in output
    assert list(store.rglob("checkpoint-*/trainer_state.json"))
    assert cluster.workspace.snakemake("-n", TRAINING) == {f"finetune_model {MODEL} ptuning"}


@pytest.mark.slow
def test_a_job_that_takes_more_memory_than_it_asked_for_is_reported(cluster: Cluster) -> None:
    cluster.workspace.edit("methods.ptuning.weight_decay", 0.1)
    flags = ["--set-resources", "finetune_model:mem_mb=150", "--", TRAINING]
    output = cluster.run("snakemake", *flags, ok=False)
    assert "exceeded memory limit" in output
    assert cluster.workspace.snakemake("-n", TRAINING) == {f"finetune_model {MODEL} ptuning"}
