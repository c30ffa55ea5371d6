"""Checkpoints that a kill, a full disk or a power cut left: only whole ones are gone on from."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from test_resuming import Kill
from tiny_training import assert_equal_bits, tune
from tiny_training import rows as rows  # a fixture

from glmtune.tokenized import TokenizedRows
from glmtune.training_checkpoints import SEAL, checkpoints_in, last_checkpoint, seal

pytestmark = pytest.mark.numeric

FILES = (
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainable.safetensors"),
    *("trainer_state.json", "pace.json", SEAL),
)


@pytest.fixture
def work(rows: TokenizedRows, tmp_path: Path) -> Path:
    """What is left of a training that was killed in its third step."""
    with pytest.raises(KeyboardInterrupt):
        tune("chatglm2-6b", "ptuning", rows, tmp_path / "killed", Kill(3))
    return tmp_path / "killed"


def test_these_are_the_files_of_a_checkpoint(work: Path) -> None:
    found = {path.name for path in (work / "checkpoint-2").iterdir()}
    assert found >= set(FILES)


@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_not_resumed_from(
    name: str,
    damage: str,
    work: Path,
    rows: TokenizedRows,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = work / "checkpoint-2" / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    resumed, _ = tune("chatglm2-6b", "ptuning", rows, work)
    assert "checkpoint-2 is incomplete: not resumed from" in capsys.readouterr().err
    whole, _ = tune("chatglm2-6b", "ptuning", rows, tmp_path / "whole")
    assert_equal_bits(whole, resumed)


def test_the_newest_whole_one_counts_whatever_the_clock_said(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "state").write_text("state")
    an_hour_ahead = time.time() + 3600
    os.utime(tmp_path / "checkpoint-2", (an_hour_ahead, an_hour_ahead))
    seal(tmp_path / "checkpoint-10")
    assert checkpoints_in(tmp_path) == [tmp_path / "checkpoint-10"]
    (tmp_path / "checkpoint-11").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert checkpoints_in(tmp_path) == [tmp_path / "checkpoint-10"]


def test_a_checkpoint_that_cannot_be_read_now_is_not_thrown_away(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", fail)
        with pytest.raises(OSError, match="Input/output error"):
            last_checkpoint(work)
    assert last_checkpoint(work) == work / "checkpoint-2"
