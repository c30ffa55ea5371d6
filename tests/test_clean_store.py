"""`make clean-store` removes old results first, and never one that a running step uses."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glmtune.errors import ParamsError
from glmtune.workspace.store import Entry, entry_for, reuse_or_compute

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from clean_store import BYTES, SECONDS, clean, parse  # noqa: E402

DAY = 86400
# Bytes of a result in these tests, apart from the small files beside it.
SIZE = 2**20


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three results, last used 3, 2 and 1 days ago by steps that have ended."""
    store = tmp_path / "store"
    for days in (3, 2, 1):
        compute(store, days)
        used(store, days, days * DAY)
    for claim in (store / "owners").iterdir():
        claim.write_text("")
    return store


def entry(store: Path, number: int) -> Entry:
    return entry_for(store, "score_predictions.py", {"number": number}, {})


def compute(store: Path, number: int) -> bool:
    def write(done: Path, work: Path) -> None:
        (done / "weights").write_bytes(os.urandom(SIZE))

    outputs = {"weights": store.parent / f"results/{number}/weights"}
    return reuse_or_compute(store, entry(store, number), outputs, write)


def used(store: Path, number: int, seconds_ago: float) -> None:
    moment = time.time() - seconds_ago
    os.utime(entry(store, number).folder / "lock", (moment, moment))


def left(store: Path) -> set[int]:
    return {number for number in (1, 2, 3) if entry(store, number).is_whole()}


def test_without_limits_everything_goes_and_it_is_told_how_much(store: Path) -> None:
    cleaned = clean(store)
    assert left(store) == set()
    told = "removed 3 results (0.00 GB) of 3 results (0.00 GB); 0 results (0.00 GB) left"
    assert str(cleaned) == told
    assert 3 * SIZE <= sum(stored.size for stored in cleaned.removed) < 4 * SIZE


def test_the_oldest_go_until_few_enough_bytes_are_left(store: Path) -> None:
    clean(store, keep=2.5 * SIZE)
    assert left(store) == {1, 2}
    clean(store, keep=2.5 * SIZE)
    assert left(store) == {1, 2}
    clean(store, keep=0)
    assert left(store) == set()


def test_what_was_not_used_for_long_goes(store: Path) -> None:
    clean(store, age=1.5 * DAY)
    assert left(store) == {1}


def test_both_limits_hold(store: Path) -> None:
    clean(store, keep=1.5 * SIZE, age=2.5 * DAY)
    assert left(store) == {1}


def test_a_reused_result_counts_as_new(store: Path) -> None:
    assert compute(store, 3)
    for claim in (store / "owners").iterdir():
        claim.write_text("")
    clean(store, keep=1.5 * SIZE)
    assert left(store) == {3}


def test_a_removed_result_is_computed_again(store: Path) -> None:
    clean(store)
    assert not compute(store, 1)
    assert left(store) == {1}


def test_a_result_that_a_step_computes_stays(store: Path) -> None:
    with (entry(store, 3).folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cleaned = clean(store)
    assert left(store) == {3}
    assert str(cleaned).endswith("; 1 not removed: a running step uses them")


def test_a_result_that_a_step_is_about_to_put_in_its_place_stays(store: Path) -> None:
    """Between its locks: the step has let go of the entry and not yet linked its files."""
    claim = next(path for path in (store / "owners").iterdir() if path.name != "lock")
    claim.write_text(f"{os.getpid()} 0123456789abcdef")
    used(store, 2, -1)
    clean(store)
    assert left(store) == {2}


def test_unfinished_work_and_the_download_count_too(store: Path) -> None:
    work = entry(store, 4).work
    work.mkdir(parents=True)
    (work.parent / "lock").touch()
    (work / "checkpoint").write_bytes(os.urandom(SIZE))
    (store / "adgen").mkdir()
    (store / "adgen/lock").touch()
    (store / "adgen/train.json").write_bytes(os.urandom(SIZE))
    assert len(clean(store).removed) == 5
    assert not work.exists()
    assert [path.name for path in (store / "adgen").iterdir()] == ["lock"]


def test_other_files_in_the_folder_are_left_alone(store: Path) -> None:
    """GLMTUNE_STORE may name a folder that holds something else as well."""
    (store / "thesis").mkdir()
    (store / "thesis/chapter.txt").write_text("...")
    clean(store)
    assert (store / "thesis/chapter.txt").read_text() == "..."


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert clean(tmp_path / "store").found == []
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20e9), ("1.5 gib", 1.5 * 2**30), ("7m", 7e6), ("100", 100)]
)
def test_sizes_may_have_any_usual_unit(text: str, size: float) -> None:
    assert parse("KEEP", text, BYTES, "20GB") == size


def test_an_age_is_hours_days_or_weeks() -> None:
    assert [parse("AGE", text, SECONDS, "30d") for text in ("1h", "2d", "1w")] == [
        3600,
        2 * DAY,
        7 * DAY,
    ]


@pytest.mark.parametrize("text", ["soon", "30", "-1d", "3m", "1e3d"])
def test_another_age_is_refused(text: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parse("AGE", text, SECONDS, "30d")
    assert str(caught.value) == (
        f"AGE: found {text!r}; expected a number with one of the units h, d, w; write e.g. AGE=30d"
    )


def test_the_command_ends_with_code_2_for_a_wrong_size(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/clean_store.py"), "--keep", "much"],
        env=os.environ | {"GLMTUNE_STORE": str(store)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: KEEP: found 'much'; expected a number with one of")
    assert left(store) == {1, 2, 3}
