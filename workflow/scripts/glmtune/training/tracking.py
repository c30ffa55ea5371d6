"""Shows losses in TensorBoard, SwanLab and W&B while a training runs; changes nothing it learns.

Their own interfaces, not transformers' `report_to`: its SwanLab callback finds no run, and each of
them starts at another moment. Nothing is sent anywhere unless the user's environment says so.

    <folder>/tensorboard/<run>/<id>     the id is that of the training, also after it resumes
             swanlab/, wandb/           as their programs name what is in them
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback

from glmtune.errors import ResourceError, first_line
from glmtune.training.callbacks import DEV_LOSS

PROJECT = "glmtune"
# A name in the Trainer's log -> how it is shown; everything else is left out.
SHOWN = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    DEV_LOSS: "eval/loss",
}


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A training as trackers show it."""

    name: str
    """`model/method`."""
    id: str
    """8 hexadecimal digits; the same after a resume."""
    folder: Path
    """Of the logs of all runs."""
    settings: Mapping[str, Any]


class Tracker(Protocol):
    """One program that shows losses, for one run."""

    def begin(self, step: int) -> None:
        """Training begins with this optimizer step; a killed run may have shown it already."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Show the values of an optimizer step."""

    def close(self) -> None:
        """Write what is left."""


class _TensorBoard:
    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.open = partial(SummaryWriter, str(run.folder / "tensorboard" / run.name / run.id))
        self.writer = self.open()

    def begin(self, step: int) -> None:
        self.writer.close()
        self.writer = self.open(purge_step=step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # by itself it would write every two minutes

    def close(self) -> None:
        self.writer.close()


class _Run:
    """What `init` of SwanLab and of W&B returns: their calls have the same names."""

    run: Any

    def begin(self, step: int) -> None:
        """Their own way to resume a run decides what happens to steps shown before."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class _SwanLab(_Run):
    def __init__(self, run: TrackedRun) -> None:
        import swanlab

        self.run = swanlab.init(
            project=os.environ.get("SWANLAB_PROJ_NAME", PROJECT),
            name=run.name,
            log_dir=os.environ.get("SWANLAB_LOGDIR", str(run.folder / "swanlab")),
            mode=os.environ.get("SWANLAB_MODE", "offline"),
            config={**run.settings, "id": run.id},
        )


class _WandB(_Run):
    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.id,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.folder)),  # it adds a folder wandb
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(run.settings),
            settings=wandb.Settings(console="off"),  # the output of a step is in its log
        )


# A name in `report_to`, which is also that of the package -> how it starts.
TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": _TensorBoard,
    "swanlab": _SwanLab,
    "wandb": _WandB,
}


class LogToTrackers(TrainerCallback):
    """Hands what the Trainer logs to trackers; one that fails is left out from then on."""

    def __init__(self, trackers: dict[str, Tracker]) -> None:
        self.trackers = trackers

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say which step comes first: after a resume the one behind the checkpoint."""
        self.each(lambda tracker: tracker.begin(state.global_step + 1))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the losses of this step."""
        values = {SHOWN[key]: float(value) for key, value in (logs or {}).items() if key in SHOWN}
        if values:
            self.each(lambda tracker: tracker.log(values, state.global_step))

    def each(self, use: Callable[[Tracker], None]) -> None:
        """Use each tracker; a training is worth more than its display, so failures only warn."""
        for name, tracker in list(self.trackers.items()):
            try:
                use(tracker)
            except Exception as error:
                del self.trackers[name]
                reason = f"{type(error).__name__}: {first_line(error)}"
                print(f"warning: {name} shows no more of this run ({reason})", file=sys.stderr)


@contextmanager
def tracked(names: Sequence[str], run: TrackedRun) -> Iterator[list[TrainerCallback]]:
    """The callbacks that show a training in these trackers; they are closed at the end.

    Enter it before the seeds are set: starting a tracker may draw random numbers.
    Raises ResourceError for a tracker that does not start.
    """
    callback = LogToTrackers({})
    try:
        for name in dict.fromkeys(names):
            callback.trackers[name] = _start(name, run)
        yield [callback] if callback.trackers else []
    finally:
        callback.each(lambda tracker: tracker.close())


def _start(name: str, run: TrackedRun) -> Tracker:
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        return TRACKERS[name](run)
    except OSError:  # a full or read-only disk, which `run_script` explains
        raise
    except Exception as error:  # the library's own: no login, no network, a wrong setting
        raise ResourceError(
            f"params.yaml: training.report_to: {name} does not start ({type(error).__name__}: "
            f"{first_line(error)}); check its environment variables, or remove it from the list"
        ) from None
