"""Losses in TensorBoard, SwanLab and W&B while a training runs; its results stay the same."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from test_finetuning import folder as folder  # a fixture
from test_finetuning import run
from tiny_training import rows as rows  # a fixture

from glmtune.errors import ResourceError
from glmtune.files import hash_folder
from glmtune.params.models import Training
from glmtune.training import tracking
from glmtune.training.tracking import TrackedRun
from glmtune.workspace import trackers

pytestmark = pytest.mark.numeric


class Recorder:
    """A tracker that remembers."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self.begun: list[int] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.is_closed = False

    def begin(self, step: int) -> None:
        self.begun.append(step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        assert not self.is_closed
        self.logged.append((step, dict(values)))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Every tracker that starts."""
    found: list[Recorder] = []

    def start(run: TrackedRun) -> Recorder:
        found.append(Recorder(run))
        return found[-1]

    monkeypatch.setattr(tracking, "TRACKERS", dict.fromkeys(trackers.TRACKERS, start))
    return found


def test_a_tracker_is_shown_what_the_curve_holds(folder: Path, started: list[Recorder]) -> None:
    lines = list(csv.DictReader((run(folder, "wandb") / "curve.csv").read_text().split()))
    (tracker,) = started
    shown: dict[int, dict[str, float]] = {}
    for step, values in tracker.logged:
        shown.setdefault(step, {}).update(values)
    columns = {"train/loss": "loss", "eval/loss": "dev_loss"}
    for line in lines:
        values = shown[int(line["step"])]
        found = {column: f"{values[name]}" for name, column in columns.items() if name in values}
        assert found == {column: line[column] for column in columns.values() if line[column]}
    assert tracker.is_closed
    assert (tracker.run.name, tracker.run.settings["rank"]) == ("tiny/lora", 2)


def test_a_training_that_resumes_has_the_id_it_had(folder: Path, started: list[Recorder]) -> None:
    shutil.rmtree(run(folder, "wandb"))
    run(folder, "wandb")  # from the checkpoint of the last step
    first, second = (tracker.run.id for tracker in started)
    assert first == second
    assert len(bytes.fromhex(first)) == 4


def run_and_kill(folder: Path, tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a training after its third step; the last checkpoint is that of the second."""

    def kill(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(tracking.LogToTrackers, "on_step_begin", kill)
        with pytest.raises(KeyboardInterrupt):
            run(folder, tracker, save_steps=2, logging_steps=1)


def test_a_tracker_is_told_with_which_step_a_training_begins(
    folder: Path, started: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_and_kill(folder, "wandb", monkeypatch)
    run(folder, "wandb", save_steps=2, logging_steps=1)
    assert [tracker.begun for tracker in started] == [[1], [3]]


def test_a_resumed_training_shows_no_step_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_and_kill(folder, "tensorboard", monkeypatch)
    run(folder, "tensorboard", save_steps=2, logging_steps=1)
    (log,) = (folder / "logs/tensorboard/tiny/lora").iterdir()
    events = EventAccumulator(str(log))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_a_tracker_that_fails_costs_no_training(
    folder: Path, started: list[Recorder], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(Recorder, "log", lambda *_, **__: 1 / 0)
    assert (run(folder, "swanlab") / "manifest.json").is_file()
    warning = "warning: swanlab shows no more of this run (ZeroDivisionError: division by zero)\n"
    assert capsys.readouterr().err.count(warning) == 1


def test_a_tracker_that_does_not_start_ends_the_step_before_the_weights_are_opened(
    folder: Path, started: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: TrackedRun) -> Recorder:
        raise ValueError("no API key\nsecond line")

    monkeypatch.setitem(tracking.TRACKERS, "wandb", refuse)
    monkeypatch.setattr("glmtune.steps.finetuning.open_prepared", pytest.fail)
    with pytest.raises(ResourceError) as caught:
        run(folder, "swanlab", "wandb")
    assert str(caught.value).startswith(
        "params.yaml: training.report_to: wandb does not start (ValueError: no API key); check"
    )
    assert [tracker.is_closed for tracker in started] == [True]


def test_tensorboard_changes_no_byte_of_the_results_and_holds_the_losses(folder: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain, curve = results(run(folder)), (folder / "done/curve.csv").read_text()
    for name in ("done", "work"):
        (folder / name).rename(folder / f"earlier-{name}")
    assert results(run(folder, "tensorboard")) == plain
    (log,) = (folder / "logs/tensorboard/tiny/lora").iterdir()
    events = EventAccumulator(str(log))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    expected = {int(line["step"]): float(line["loss"]) for line in csv.DictReader(curve.split())}
    assert losses == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["swanlab", "wandb"])
def test_nothing_leaves_the_machine_unless_the_environment_says_so(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name, reason=f"needs the extra {name}")
    monkeypatch.setattr("socket.socket.connect", connect_to_this_machine_only())
    plain = results(run(folder))
    for part in ("done", "work"):
        (folder / part).rename(folder / f"earlier-{part}")
    assert results(run(folder, name)) == plain
    assert list((folder / "logs" / name).rglob(f"*.{name}"))


def connect_to_this_machine_only() -> Any:
    from socket import AF_UNIX, socket

    connect = socket.connect

    def checked(self: socket, address: Any) -> None:
        assert self.family == AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
        connect(self, address)

    return checked


def results(done: Path) -> dict[str, str]:
    """The hashes of what a training leaves, without what differs from run to run."""
    return {name: digest for name, digest in hash_folder(done).items() if name != "runtime.json"}


def test_what_is_missing_is_named_with_its_fix_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_such_tracker").mkdir()  # a folder of logs is no package
    trackers.require_trackers([])
    with pytest.raises(ResourceError) as caught:
        trackers.require_trackers(["json", "no_such_tracker"])
    assert str(caught.value) == (
        "params.yaml: training.report_to: found no_such_tracker, not installed; install what is "
        "missing (pip install -e '.[no_such_tracker]') or remove it from the list"
    )


def test_every_tracker_of_params_yaml_is_known_everywhere() -> None:
    (choices,) = get_args(Training.model_fields["report_to"].annotation)
    assert get_args(choices) == trackers.TRACKERS == tuple(tracking.TRACKERS)
