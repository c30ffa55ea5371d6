"""The tools that measure growth run at tiny sizes; what they measure is not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import ROOT

sys.path.insert(0, str(ROOT / "tools"))

from bench_costs import cost_of  # noqa: E402

MIB = 2**20


def table(tool: str, *flags: str | Path) -> list[list[str]]:
    """The cells of the table that a tool prints, without its head."""
    command = [sys.executable, ROOT / "tools" / f"bench_{tool}.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, line, *rows = [shown.strip("| \n").split(" | ") for shown in done.stdout.splitlines()]
    assert all(len(row) == len(head) for row in rows)
    return rows


def test_the_cost_is_that_of_a_command_and_its_children(tmp_path: Path) -> None:
    mine = bytearray(300 * MIB)  # what measures may be larger
    alone = cost_of(["python", "-c", "pass"], tmp_path)
    child = f"x = bytearray({200 * MIB}); sum(range(10**7))"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    found = cost_of(["python", "-c", parent], tmp_path)
    assert alone.peak < 100 < 200 < found.peak < 300 == len(mine) / MIB
    assert found.cpu > alone.cpu


def test_a_command_that_fails_ends_the_measurement_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)python -c .* failed:\nno room"):
        cost_of(["python", "-c", "raise SystemExit('no room')"], tmp_path)


def test_reports_of_several_sizes_are_measured() -> None:
    rows = table("report", "--runs", "2", "4", "--models", "2", "--rows", "20")
    assert [row[0] for row in rows] == ["4", "4"]  # at least the untuned model and a tuning each


def test_hashes_are_measured() -> None:
    rows = table("hashing", "--gigabytes", "0.001", "--files", "2")
    assert [row[0] for row in rows] == ["nothing", "first", "again"]


def test_tokenising_is_measured() -> None:
    vocabulary = ROOT / "tests/fixtures/v2/checkpoint/tokenizer.model"
    rows = table("tokenising", "--vocabulary", f"chatglm2-6b={vocabulary}", "--rows", "40")
    assert [row[:2] for row in rows] == [["chatglm2-6b", "10"], ["chatglm2-6b", "40"]]
    few, many = (int(row[2].replace(",", "")) for row in rows)
    assert 0 < few < many


def test_scoring_is_measured_against_the_packages() -> None:
    (row,) = table("scores", "--rows", "20", "--repeats", "1")
    assert row[0] == "20"


@pytest.mark.slow
@pytest.mark.workflow
def test_runs_with_nothing_to_do_are_measured() -> None:
    (row,) = table("noop", "--jobs", "12", "--repeats", "1")
    assert row[0] == "12"
