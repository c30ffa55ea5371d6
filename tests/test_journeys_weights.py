"""A user's own weights through the whole workflow: replaced ones are noticed by their content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from workspaces import Workspace

pytestmark = pytest.mark.slow

OF_ALL_STEPS = {
    *("prepare_model own", "tokenize_dataset own", "finetune_model own lora"),
    *("generate_predictions own none", "generate_predictions own lora"),
    *("score_predictions own none", "score_predictions own lora", "render_report"),
}


@pytest.fixture
def with_weights(workspace: Workspace) -> Workspace:
    """A run of LoRA on a folder of weights beside the project's own."""
    source = workspace.path / "results" / "models" / "chatglm2-6b"
    shutil.copytree(source, workspace.path / "weights")
    workspace.edit("models", {"own": {"source": "./weights", "family": "chatglm2-6b"}})
    for method in ("ptuning", "full"):
        workspace.edit(f"methods.{method}", ...)
    workspace.snakemake("--cores", "2")
    return workspace


def swap_a_byte(file: Path) -> None:
    """Another weight; the size and the time of the file stay."""
    times, content = file.stat(), bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_replaced_weights_of_the_same_size_are_noticed(with_weights: Workspace) -> None:
    assert with_weights.would_run() == set()
    before = with_weights.trainings()
    swap_a_byte(with_weights.path / "weights" / "model.safetensors")
    assert with_weights.would_run() == OF_ALL_STEPS
    assert with_weights.snakemake("--cores", "2") == OF_ALL_STEPS
    assert len(with_weights.trainings() - before) == 1
    assert with_weights.would_run() == set()


def test_weights_that_were_only_touched_or_copied_rerun_nothing(with_weights: Workspace) -> None:
    weights = with_weights.path / "weights"
    shutil.copytree(weights, weights.with_name("copy"))
    shutil.rmtree(weights)
    weights.with_name("copy").rename(weights)
    assert with_weights.would_run() == set()
