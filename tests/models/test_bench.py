"""The benchmark compares two ways that do the same thing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import ROOT

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
