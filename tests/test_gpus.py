"""Each job has a GPU of its own: pretended cards, real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pretended_gpus import TWO_CARDS, A, B, machine_with
from workspaces import MODEL, ROOT, Workspace

from glmtune.errors import ResourceError
from glmtune.workspace.gpus import lease_gpus, visible_gpus

SPLIT_CARD = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaaaaaa-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  0: (UUID: MIG-11111111-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  1: (UUID: MIG-22222222-0000-0000-0000-000000000000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbbbbbb-1111-1111-1111-111111111111)
"""
MIG_1, MIG_2 = (
    "MIG-11111111-0000-0000-0000-000000000000",
    "MIG-22222222-0000-0000-0000-000000000000",
)
OLD_MIG = "MIG-GPU-aaaaaaaa-0000-0000-0000-000000000000/1/0"
# Takes GPUs, says which, and holds them until its standard input ends.
JOB = """
import os, sys
from glmtune.workspace.gpus import lease_gpus
lease_gpus(*map(int, sys.argv[1:]))
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""

Job = subprocess.Popen[str]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let this process run on a machine with these GPUs."""

    def become(gpus: str, visible: str | None = None) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name, value in machine_with(gpus, tmp_path, visible).items():
            monkeypatch.setenv(name, value)

    return become


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start a process that wants one of two cards; all are ended after the test."""
    jobs: list[Job] = []
    others = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}

    def start_job(visible: str | None = None, gpus: str = TWO_CARDS, count: int = 1) -> Job:
        environment = others | machine_with(gpus, tmp_path, visible)
        path = os.pathsep.join(
            [str(ROOT / "workflow" / "scripts"), environment.get("PYTHONPATH", "")]
        )
        job = subprocess.Popen(
            [sys.executable, "-c", JOB, str(count)],
            env=environment | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        jobs.append(job)
        return job

    yield start_job
    for job in jobs:
        job.kill()
        job.communicate()


def gpu_of(job: Job) -> str:
    """What a job's CUDA sees, once it has a GPU."""
    assert job.stdout is not None
    return job.stdout.readline().strip()


def wait_until_it_waits(job: Job) -> None:
    assert job.stderr is not None
    assert "waiting for 1 of " in job.stderr.readline()


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        (None, [A, B]),
        ("", []),
        ("-1", []),
        ("1", [B]),
        ("1,0", [B, A]),
        ("1,1", [B]),
        (f"{B}, {A}", [B, A]),
        ("GPU-bbb", [B]),
        ("0,-1,1", [A]),
        ("NoDevFiles", []),
    ],
)
def test_only_the_cards_that_the_user_chose_are_used(
    machine: Callable[..., None], visible: str | None, gpus: list[str]
) -> None:
    machine(TWO_CARDS, visible)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        (None, [MIG_1, MIG_2, B]),
        ("0", [MIG_1, MIG_2]),
        (MIG_2, [MIG_2]),
        ("MIG-1,1", [MIG_1, B]),
        (A, [MIG_1, MIG_2]),
    ],
)
def test_the_mig_devices_of_a_split_card_are_used_in_its_place(
    machine: Callable[..., None], visible: str | None, gpus: list[str]
) -> None:
    machine(SPLIT_CARD, visible)
    assert visible_gpus() == gpus


@pytest.mark.parametrize("visible", ["2", "0,7", "GPU-cccc", "MIG-1", "all"])
def test_a_card_that_is_not_there_is_named(machine: Callable[..., None], visible: str) -> None:
    machine(TWO_CARDS, visible)
    wrong = visible.rpartition(",")[2]
    with pytest.raises(ResourceError, match=f"CUDA_VISIBLE_DEVICES: found '{wrong}'; expected num"):
        visible_gpus()


def test_a_driver_that_does_not_work_shows_no_cards(machine: Callable[..., None]) -> None:
    machine("Failed to initialize NVML: Driver/library version mismatch\n", "0")
    assert visible_gpus() == []


def test_a_job_without_a_gpu_changes_nothing(start: Callable[..., Job]) -> None:
    assert gpu_of(start(gpus="")) == "None"
    assert gpu_of(start("", gpus="")) == ""


def test_two_jobs_have_two_cards_and_a_third_waits_for_one(start: Callable[..., Job]) -> None:
    first, second, third = start(), start(), None
    assert {gpu_of(first), gpu_of(second)} == {A, B}
    third = start()
    wait_until_it_waits(third)
    first.communicate("")
    assert gpu_of(third) in (A, B)


def test_a_job_of_two_processes_waits_until_two_cards_are_free(start: Callable[..., Job]) -> None:
    held = start("1")
    assert gpu_of(held) == B
    waiting = start(count=2)
    assert waiting.stderr is not None
    assert "waiting for 2 of 2" in waiting.stderr.readline()
    other = start("0")  # a job that waits for more holds nothing
    assert gpu_of(other) == A
    other.communicate("")
    held.communicate("")
    assert gpu_of(waiting) == f"{A},{B}"


def test_more_processes_than_cards_are_refused(
    machine: Callable[..., None],
) -> None:
    machine(TWO_CARDS)
    with pytest.raises(ResourceError, match="launcher.processes: found 3; expected at most 2"):
        lease_gpus(3)
    machine(SPLIT_CARD)
    with pytest.raises(ResourceError, match="launcher.processes: found all; expected 1, because"):
        lease_gpus("all")


def test_a_killed_job_leaves_its_card_free(start: Callable[..., Job]) -> None:
    held = start("1")
    assert gpu_of(held) == B
    waiting = start("1")
    wait_until_it_waits(waiting)
    held.kill()
    assert gpu_of(waiting) == B


def test_a_number_and_a_uuid_are_the_same_card(start: Callable[..., Job]) -> None:
    """Two runs may name their cards differently."""
    by_number = start("0")
    assert gpu_of(by_number) == A
    by_uuid = start("GPU-aaaa")
    wait_until_it_waits(by_uuid)
    by_number.communicate("")
    assert gpu_of(by_uuid) == A


def test_mig_devices_are_leased_by_their_own_names(start: Callable[..., Job]) -> None:
    listed = SPLIT_CARD.replace(MIG_1, OLD_MIG)
    jobs = [start("0", gpus=listed) for _ in range(2)]
    assert {gpu_of(job) for job in jobs} == {OLD_MIG, MIG_2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("visible", "cards"), [(None, {A, B}), ("1", {B}), ("", set())], ids=["two", "one", "none"]
)
def test_a_run_uses_all_cards_at_once_one_for_each_job(
    workspace: Workspace, tmp_path: Path, visible: str | None, cards: set[str]
) -> None:
    """The second card is used only while another job holds the first."""
    for method in ("ptuning", "lora", "full"):
        workspace.edit(f"methods.{method}.weight_decay", 0.1)
    machine = tmp_path / "machine"
    machine.mkdir()
    environment = machine_with(TWO_CARDS, machine, visible)
    workspace.run("snakemake", "--cores", "2", "results/report.md", ok=True, **environment)
    logs = (workspace.path / "logs" / "finetune_model" / MODEL).glob("*.log")
    used = {
        line[5:] for log in logs for line in log.read_text().splitlines() if line[:5] == "GPU: "
    }
    assert used == cards
