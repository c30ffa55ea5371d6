"""The store: what is reused, what is computed again, and who may write."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from glmtune.errors import DataError, ResourceError, run_script
from glmtune.files import atomic_path, read_json
from glmtune.workspace import store
from glmtune.workspace.store import Entry, entry_for, reuse_or_compute

SCRIPT = "score_predictions.py"
# Other test files start threads in this process; Python 3.12 and later warn of forking then.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return entry_for(tmp_path / "store", SCRIPT, {"lr": 0.1}, {})


def write_number(done: Path, work: Path) -> None:
    """A result that differs with every computation."""
    count = work / "count"
    with count.open("a") as out:
        out.write("x")
    (done / "result.txt").write_text(f"computed {len(count.read_text())}")


def run(tmp_path: Path, entry: Entry, compute: Any = write_number) -> bool:
    return reuse_or_compute(
        tmp_path / "store", entry, {"result.txt": tmp_path / "results/result.txt"}, compute
    )


def refuse(done: Path, work: Path) -> None:
    raise AssertionError("computed although it was there")


def test_a_finished_result_is_reused(tmp_path: Path, entry: Entry) -> None:
    assert not run(tmp_path, entry)
    (tmp_path / "results/result.txt").unlink()
    assert run(tmp_path, entry, refuse)
    assert (tmp_path / "results/result.txt").read_text() == "computed 1"


def test_the_key_is_made_of_settings_inputs_code_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.json"
    data.write_text("1")

    def key(settings: dict[str, Any]) -> str:
        return entry_for(tmp_path, SCRIPT, settings, {"data": data}).folder.name

    first = key({"lr": 0.1})
    assert key({"lr": 0.1}) == first
    keys = {first, key({"lr": 0.2})}
    data.write_text("2")
    keys.add(key({"lr": 0.1}))
    monkeypatch.setattr(store, "hash_code", lambda script: "other code")
    keys.add(key({"lr": 0.1}))
    monkeypatch.setattr(store, "installed_versions", lambda names: dict.fromkeys(names, "0"))
    keys.add(key({"lr": 0.1}))
    assert len(keys) == 5


def test_a_result_changed_behind_its_back_is_computed_again(tmp_path: Path, entry: Entry) -> None:
    run(tmp_path, entry)
    (entry.done / "result.txt").write_text("tampered")
    assert not run(tmp_path, entry)
    assert (tmp_path / "results/result.txt").read_text().startswith("computed")


@pytest.mark.parametrize("content", [b"", b"{}", b"{", b'{"result.txt": "0"}', b"\xff"])
def test_an_entry_with_damaged_contents_is_computed_again(
    tmp_path: Path, entry: Entry, content: bytes
) -> None:
    run(tmp_path, entry)
    (entry.folder / "contents.json").write_bytes(content)
    assert not run(tmp_path, entry)
    assert run(tmp_path, entry, refuse)


def test_what_killed_processes_left_in_an_entry_goes_with_the_next_run(
    tmp_path: Path, entry: Entry
) -> None:
    fork = multiprocessing.get_context("fork")

    def die(done: Path, work: Path) -> None:
        with atomic_path(work / "best.safetensors") as temporary:
            temporary.write_text("half")
            os._exit(1)

    for _ in range(2):
        process = fork.Process(target=run, args=(tmp_path, entry, die))
        process.start()
        process.join(20)
    assert len(list(entry.folder.rglob(".*"))) == 2  # of the second: it removed those of the first
    run(tmp_path, entry)
    assert list(entry.folder.rglob(".*")) == []


def test_what_a_living_process_writes_is_left_to_it(
    tmp_path: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = multiprocessing.get_context("fork")
    started, waits, go = fork.Event(), fork.Event(), fork.Event()
    # The second one says so before it waits.
    monkeypatch.setattr("glmtune.files.print", lambda *_, **__: waits.set(), raising=False)

    def slow(done: Path, work: Path) -> None:
        started.set()
        go.wait(20)
        write_number(done, work)

    def run_elsewhere() -> None:
        reuse_or_compute(tmp_path, entry, {"result.txt": tmp_path / "elsewhere"}, refuse)

    first = fork.Process(target=run, args=(tmp_path, entry, slow))
    second = fork.Process(target=run_elsewhere)
    first.start()
    assert started.wait(20)
    second.start()
    assert waits.wait(20)
    go.set()
    for process in (first, second):
        process.join(20)
        assert process.exitcode == 0


def test_what_is_found_anew_each_time_is_never_reused(tmp_path: Path, entry: Entry) -> None:
    """A folder of the user's can change without any parameter changing."""
    outputs = {"result.txt": tmp_path / "results/result.txt"}
    for _ in range(2):
        reused = reuse_or_compute(tmp_path / "store", entry, outputs, write_number, reuse=False)
        assert not reused


def test_an_entry_says_what_its_key_was_made_of(tmp_path: Path, entry: Entry) -> None:
    run(tmp_path, entry)
    identity = read_json(entry.folder / "key.json")
    assert (identity["script"], identity["settings"]) == (SCRIPT, {"lr": 0.1})
    assert {"inputs", "code", "versions", "python"} <= set(identity)


def test_a_folder_is_placed_whole_over_the_former_one(tmp_path: Path, entry: Entry) -> None:
    def write_folder(done: Path, work: Path) -> None:
        (done / "checkpoint").mkdir()
        (done / "checkpoint/new").write_text("new")
        (done / "manifest.json").write_text("{}")

    target = tmp_path / "results/checkpoint"
    target.mkdir(parents=True)
    (target / "old").write_text("old")
    outputs = {"checkpoint": target, "manifest.json": tmp_path / "results/manifest.json"}
    reuse_or_compute(tmp_path / "store", entry, outputs, write_folder)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "checkpoint",
        "manifest.json",
    ]


def test_a_failed_computation_leaves_the_former_output(tmp_path: Path, entry: Entry) -> None:
    run(tmp_path, entry_for(tmp_path / "store", SCRIPT, {"lr": 0.2}, {}))
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, entry, lambda done, work: 1 / 0)
    assert (tmp_path / "results/result.txt").read_text() == "computed 1"


def test_the_next_try_finds_the_work_of_the_last(tmp_path: Path, entry: Entry) -> None:
    def fail_once(done: Path, work: Path) -> None:
        write_number(done, work)
        if (done / "result.txt").read_text() == "computed 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, entry, fail_once)
    assert not entry.is_whole()
    assert not run(tmp_path, entry, fail_once)
    assert (tmp_path / "results/result.txt").read_text() == "computed 2"
    assert not entry.work.exists()


def test_a_failed_computation_places_nothing_and_keeps_its_work(
    tmp_path: Path, entry: Entry
) -> None:
    def fail(done: Path, work: Path) -> None:
        (done / "result.txt").write_text("half")
        (work / "checkpoint").write_text("step 5")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run(tmp_path, entry, fail)
    assert not (tmp_path / "results/result.txt").exists()
    assert (entry.work / "checkpoint").read_text() == "step 5"
    assert not run(tmp_path, entry)


def test_two_processes_compute_the_same_thing_once(tmp_path: Path, entry: Entry) -> None:
    fork = multiprocessing.get_context("fork")
    started, go = fork.Event(), fork.Event()

    def slow(done: Path, work: Path) -> None:
        started.set()
        go.wait(20)
        write_number(done, work)

    first = fork.Process(target=run, args=(tmp_path, entry, slow))
    first.start()
    assert started.wait(20)
    second = fork.Process(target=run, args=(tmp_path, entry, refuse))
    second.start()
    go.set()
    first.join(20)
    second.join(20)
    assert second.exitcode == 0
    assert (tmp_path / "results/result.txt").read_text() == "computed 1"


def test_what_is_computed_anew_leaves_another_s_files_until_they_are_placed(
    tmp_path: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two models of params.yaml that are one folder, prepared at the same time."""
    place, is_computing, may_end = store._link_into_place, threading.Event(), threading.Event()

    def wait_and_write(done: Path, work: Path) -> None:
        is_computing.set()
        assert may_end.wait(30)
        time.sleep(0.4)
        write_number(done, work)

    def wait_and_place(source: Path, target: Path) -> None:
        time.sleep(0.2)  # by now the other would have begun
        place(source, target)

    def prepare(name: str) -> None:
        outputs = {"result.txt": tmp_path / name}
        reuse_or_compute(tmp_path / "store", entry, outputs, wait_and_write, reuse=False)

    monkeypatch.setattr(store, "_link_into_place", wait_and_place)
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(prepare, "one")]
        assert is_computing.wait(30)
        both.append(pool.submit(prepare, "two"))
        time.sleep(0.2)  # it waits for the first by now
        may_end.set()
        for each in both:
            each.result()
    texts = {name: (tmp_path / name).read_text() for name in ("one", "two")}
    assert texts == dict.fromkeys(("one", "two"), "computed 1")


def test_a_run_left_over_from_before_does_not_write_over_a_newer_one(
    tmp_path: Path, entry: Entry
) -> None:
    newer = entry_for(tmp_path / "store", SCRIPT, {"lr": 0.2}, {})

    def slow(done: Path, work: Path) -> None:
        run(tmp_path, newer)
        (tmp_path / "results/result.txt").write_text("newer")
        write_number(done, work)

    with pytest.raises(ResourceError, match="another run has taken over"):
        run(tmp_path, entry, slow)
    assert (tmp_path / "results/result.txt").read_text() == "newer"
    assert entry.is_whole()


def test_a_newer_process_makes_an_older_one_stop(tmp_path: Path, entry: Entry) -> None:
    """A killed Snakemake leaves its jobs running; the next run must not be overwritten by them."""
    fork = multiprocessing.get_context("fork")
    started, go = fork.Event(), fork.Event()

    def slow(done: Path, work: Path) -> None:
        started.set()
        go.wait(20)
        (done / "result.txt").write_text("older")

    def left_over() -> None:
        def step() -> None:
            run(tmp_path, entry, slow)

        run_script(step)

    older = fork.Process(target=left_over)
    older.start()
    assert started.wait(20)
    run(tmp_path, entry_for(tmp_path / "store", SCRIPT, {"lr": 0.2}, {}))
    go.set()
    older.join(20)
    assert older.exitcode == 2
    assert (tmp_path / "results/result.txt").read_text() == "computed 1"


def test_a_killed_process_keeps_no_entry_locked(tmp_path: Path, entry: Entry) -> None:
    fork = multiprocessing.get_context("fork")
    started = fork.Event()

    def hang(done: Path, work: Path) -> None:
        started.set()
        fork.Event().wait(60)

    process = fork.Process(target=run, args=(tmp_path, entry, hang))
    process.start()
    assert started.wait(20)
    process.kill()
    process.join(20)
    assert not run(tmp_path, entry)
    assert (tmp_path / "results/result.txt").read_text() == "computed 1"


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"manifest\.json: no such file; run the step that writes it"
    ):
        entry_for(tmp_path, SCRIPT, {}, {"model": tmp_path / "manifest.json"})
