"""Trainings of a tiny model by one or several processes, for tests: the step's own, watched.

`train_together` is the test's side; each process calls `train_one`.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tiny_training import settings_of
from transformers import TrainerCallback
from workspaces import ROOT

from glmtune.devices import Device
from glmtune.files import write_json
from glmtune.steps import finetuning
from glmtune.steps.inputs_outputs import ModelFiles, Outputs, Tracking
from glmtune.training import processes
from glmtune.training.parameters import trainable

START = """
import pickle, sys
from glmtune.errors import run_script
from glmtune.workspace import torchrun
call = pickle.load(sys.stdin.buffer)
torchrun.SECONDS_TO_MEET = call.pop("seconds")
run_script(lambda: torchrun.call_in_processes(*sys.argv[1:], **call))
"""


def train_together(*arguments: Any, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Train as `start_together` does, to the end."""
    started = start_together(*arguments, **changes)
    output, errors = started.communicate(timeout=300)
    code = started.returncode
    return subprocess.CompletedProcess(started.args, code, output.decode(), errors.decode())


def start_together(
    inputs: Path,
    out: Path,
    method: str,
    count: int,
    sharding: str = "none",
    *,
    nodes: int = 1,
    starter: str = "",
    dtype: str = "float32",
    dies: tuple[int, int] | None = None,
    **changes: Any,
) -> subprocess.Popen[bytes]:
    """Train what `write_inputs` wrote with `count` processes; results are in `out`/done.

    With several `nodes` each of these has as many processes, and `starter` starts them. `dtype` is
    what they compute in. `dies`: a process and the step at which it kills itself. `out`/held.json
    has the elements of trained weights and of an optimizer's moment that each process held.
    """
    (out / "done").mkdir(parents=True, exist_ok=True)
    arguments = {
        "model": ModelFiles(folder=inputs / "model", manifest=inputs / "model.json"),
        "data": inputs / "data",
        "settings": settings_of(method, **changes),
        "outputs": Outputs(out_dir=out / "done", resume_dir=out / "work"),
        "tracking": Tracking(trackers=[], run=f"tiny/{method}", folder=out / "logs"),
        "sharding": sharding,
    }
    call = {"processes": count, "nodes": nodes, "starter": starter, "seconds": 60}
    call |= {"dtype": dtype, "dies": dies, "arguments": arguments}
    started = subprocess.Popen(
        [sys.executable, "-c", START, "trained_in_processes", "train_one"],
        env=os.environ | {"PYTHONPATH": path_of_tests()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert started.stdin is not None
    started.stdin.write(pickle.dumps(call))
    started.stdin.close()
    started.stdin = None  # or `communicate` would write to it
    return started


def path_of_tests() -> str:
    """PYTHONPATH of a process that uses the library and these files."""
    return os.pathsep.join([str(ROOT / "workflow/scripts"), str(ROOT / "tests")])


def train_one(*, dtype: str, dies: tuple[int, int] | None, arguments: dict[str, Any]) -> None:
    """Train as one of the processes, on a CPU that computes in `dtype`."""
    device = Device("cpu", dtype, "")
    setattr(finetuning, "choose_device", lambda: device)  # noqa: B010
    processes.KEPT = 0  # else weights as small as these would stay whole
    watch, train = _Watch(dies), finetuning.train

    def watched(model: Any, *given: Any, callbacks: Any, **named: Any) -> Any:
        outcome = train(model, *given, callbacks=[*callbacks, watch], **named)
        weights = trainable(model).values()
        held = sum(getattr(weight, "ds_tensor", weight).numel() for weight in weights)
        found = {"weights": processes.gathered(held), "moment": processes.gathered(watch.moment)}
        if processes.is_first():
            write_json(arguments["outputs"].out_dir.parent / "held.json", found)
        return outcome

    setattr(finetuning, "train", watched)  # noqa: B010 mypy would have its exact type
    finetuning.finetune(**arguments)


class _Watch(TrainerCallback):
    """Counts the elements of AdamW's first moment here, and kills this process at a step."""

    def __init__(self, dies: tuple[int, int] | None) -> None:
        self.dies = dies
        self.moment = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.dies == (processes.rank(), state.global_step):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        optimizer = given["optimizer"]
        while hasattr(optimizer, "optimizer"):  # accelerate's, DeepSpeed's, torch's
            optimizer = optimizer.optimizer
        self.moment = sum(each["exp_avg"].numel() for each in optimizer.state.values())
