"""The benchmark compares two ways that do the same thing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model
from workspaces import ROOT

from glmtune.labels import IGNORED_LABEL

sys.path.insert(0, str(ROOT / "tools"))
from bench_training import as_others_do  # noqa: E402

pytestmark = [pytest.mark.numeric, pytest.mark.slow]


def test_both_ways_give_the_same_losses_and_texts(tmp_path: Path) -> None:
    out = tmp_path / "benchmarks.json"
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), "--quick", "--threads", "1"]
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=True
    ).stdout
    figures = json.loads(out.read_text())
    trainings = figures["training"]["cases"]
    assert len(trainings) == 6
    assert all(case["largest_loss_difference"] < 1e-4 for case in trainings.values())
    assert figures["generation"]["same_texts"] == figures["generation"]["rows_one_by_one"] == 4
    for found in figures["equality"].values():
        assert 0 < found["same_texts"] <= found["rows"]
    for decoding in ("greedy", "drawn"):
        assert figures["equality"][f"float32 {decoding}"]["different_without_near_tie"] == 0
    for name in ("training", "generation"):
        assert figures[name]["lowest"] <= figures[name]["ratio"] <= figures[name]["highest"]
        assert f"{name}, chatglm2-6b ptuning: " in done


def test_the_other_ways_compute_padding_and_all_logits() -> None:
    """Otherwise the benchmark compares us with ourselves."""
    model = tiny_model("chatglm2-6b").train()
    computed: list[int] = []
    for layer in model.transformer.layers:
        layer.mlp.register_forward_hook(
            lambda _, __, output: computed.append(output.flatten(0, -2).shape[0])
        )
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "num_items_in_batch": 2}
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[0, 3], labels[1, 1] = 8, 10
    ours = model(**batch, labels=labels)
    with as_others_do(model):
        theirs = model(**batch, labels=labels)
    assert computed == [6, 2, 8, 8]
    assert ours.logits is None
    assert theirs.logits.shape == (2, 4, 80)
    torch.testing.assert_close(theirs.loss, ours.loss)
