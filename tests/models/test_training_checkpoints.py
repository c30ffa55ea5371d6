"""Checkpoints after a kill, a power cut or disk corruption: only complete ones are resumed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_resuming import Kill
from tiny_training import assert_equal_bits, tune
from tiny_training import rows as rows  # a fixture

from glmtune.errors import ResourceError
from glmtune.families.tokenized import TokenizedRows
from glmtune.training import resuming as training_checkpoints
from glmtune.training.resuming import SEAL, checkpoints_in, last_checkpoint, seal
from glmtune.training.train import TrainingOutcome

pytestmark = pytest.mark.numeric

FILES = (
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainable.safetensors"),
    *("trainer_state.json", "throughput.json", SEAL),
)


@pytest.fixture(scope="module")
def killed(rows: TokenizedRows, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The remains of trainings killed after a step: step -> folder."""
    folder = tmp_path_factory.mktemp("killed")
    for step in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            tune("chatglm2-6b", "ptuning", rows, folder / str(step), Kill(step))
    return {step: folder / str(step) for step in (3, 4)}


@pytest.fixture(scope="module")
def whole(
    rows: TokenizedRows, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, TrainingOutcome]:
    """The same training, uninterrupted."""
    return tune("chatglm2-6b", "ptuning", rows, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def work(killed: dict[int, Path], tmp_path: Path) -> Path:
    """The remains of a training that was killed in its third step."""
    return Path(shutil.copytree(killed[3], tmp_path / "work"))


def test_these_are_the_files_of_a_checkpoint(work: Path) -> None:
    found = {path.name for path in (work / "checkpoint-2").iterdir()}
    assert found >= set(FILES)


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def fill_half_with_zeros(file: Path) -> None:
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(content[:half] + bytes(len(content) - half))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a changed byte": change_a_byte,
    "half zeros": fill_half_with_zeros,
    "cut": cut,
    "empty": empty,
    "missing": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_not_resumed_from(
    name: str,
    damage: str,
    work: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    DAMAGE[damage](work / "checkpoint-2" / name)
    assert last_checkpoint(work) is None
    said = "removing incomplete or corrupt checkpoint-2; starting over\n"
    assert capsys.readouterr().err == said
    assert checkpoints_in(work) == []


@pytest.fixture
def both(work: Path, killed: dict[int, Path]) -> Path:
    """The same with one more checkpoint: killed before the older one was removed."""
    shutil.copytree(killed[4] / "checkpoint-4", work / "checkpoint-4")
    return work


@pytest.mark.parametrize(
    ("damaged", "resumed", "said"),
    [
        ([2], 4, ""),
        ([4], 2, "removing incomplete or corrupt checkpoint-4; resuming from checkpoint-2\n"),
        (
            [2, 4],
            None,
            "removing incomplete or corrupt checkpoint-4, checkpoint-2; starting over\n",
        ),
    ],
)
def test_the_newest_complete_checkpoint_is_resumed_with_the_same_result(
    damaged: list[int],
    resumed: int | None,
    said: str,
    both: Path,
    rows: TokenizedRows,
    whole: tuple[Any, TrainingOutcome],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for step in damaged:
        change_a_byte(both / f"checkpoint-{step}" / "optimizer.pt")
    capsys.readouterr()
    assert last_checkpoint(both) == (resumed and both / f"checkpoint-{resumed}")
    assert capsys.readouterr().err == said
    model, curve = tune("chatglm2-6b", "ptuning", rows, both)
    assert_equal_bits(whole[0], model)
    assert curve == whole[1]


def test_an_empty_seal_is_invalid(work: Path) -> None:
    (work / "checkpoint-2" / SEAL).write_text("{}")
    assert last_checkpoint(work) is None


def test_a_checkpoint_that_reads_back_corrupt_does_not_replace_the_previous_one(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = work / "checkpoint-3"
    shutil.copytree(work / "checkpoint-2", newer, ignore=shutil.ignore_patterns(SEAL))
    flush_to_disk = training_checkpoints._flush_to_disk

    def write_wrongly(path: Path) -> None:
        flush_to_disk(path)
        if path.name == "optimizer.pt":
            change_a_byte(path)

    monkeypatch.setattr(training_checkpoints, "_flush_to_disk", write_wrongly)
    seal(newer)
    assert checkpoints_in(work) == [work / "checkpoint-2"]
    assert "checkpoint-3 is corrupt (it reads back differently" in capsys.readouterr().err


def test_the_previous_checkpoint_stays_until_the_next_one_is_verified(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = work / "checkpoint-3"
    shutil.copytree(work / "checkpoint-2", newer, ignore=shutil.ignore_patterns(SEAL))
    seen = []

    def look(path: Path) -> int:
        seen.append([checkpoint.name for checkpoint in checkpoints_in(work)])
        return 0

    monkeypatch.setattr(training_checkpoints, "_crc32_of", look)
    seal(newer)
    assert len(seen) == 2 * (len(list(newer.iterdir())) - 1)
    assert all(names == ["checkpoint-2", "checkpoint-3"] for names in seen)
    assert checkpoints_in(work) == [newer]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("optimizer.pt", b"no tensors"),
        ("scheduler.pt", b""),
        ("rng_state.pth", b"PK\3\4"),
        ("trainable.safetensors", b"\0" * 64),
        ("trainer_state.json", b"[]"),
        ("throughput.json", b'{"rows": 1}'),
    ],
)
def test_a_complete_checkpoint_that_cannot_be_loaded_is_one_message(
    name: str, content: bytes, work: Path, rows: TokenizedRows
) -> None:
    checkpoint = work / "checkpoint-2"
    (checkpoint / name).write_bytes(content)
    seal(checkpoint)
    with pytest.raises(ResourceError, match=r"/checkpoint-2: cannot resume from it \(") as caught:
        tune("chatglm2-6b", "ptuning", rows, work)
    assert str(caught.value).endswith("); delete it to start the training over")
    assert "\n" not in str(caught.value)


def test_the_newest_complete_checkpoint_counts_whatever_the_clock_says(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", [SEAL, "optimizer.pt"])
def test_a_checkpoint_that_is_temporarily_unreadable_is_kept(
    work: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = Path.open

    def fail(path: Path, *arguments: object, **keywords: object) -> object:
        if path.name == name:
            raise OSError(5, "Input/output error")
        return open_file(path, *arguments, **keywords)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", fail)
        with pytest.raises(ResourceError, match=rf"{name}: cannot be read \(Input/output error\)"):
            last_checkpoint(work)
    assert last_checkpoint(work) == work / "checkpoint-2"
