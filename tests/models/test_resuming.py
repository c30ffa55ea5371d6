"""A killed training resumes from its last checkpoint and ends with the same bits."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import tqdm.auto
from safetensors.torch import load_file, save_file
from tiny_training import FAMILY_NAMES, LORA_KINDS, TUNINGS, assert_equal_bits, losses, tune
from tiny_training import rows as rows  # a fixture
from transformers import TrainerCallback

from glmtune.families.tokenized import TokenizedRows
from glmtune.training.resuming import checkpoints_in
from glmtune.training.trainer import mean_loss

pytestmark = pytest.mark.numeric


class Kill(TrainerCallback):
    """Kills a training after a step; after the last step, once everything is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step < args.max_steps:
            raise KeyboardInterrupt

    def on_train_end(self, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt


def assert_a_resumed_training_ends_the_same(
    family: str, method: str, rows: TokenizedRows, folder: Path, kill: int, **changes: Any
) -> None:
    whole, curve = tune(family, method, rows, folder / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        tune(family, method, rows, folder / "killed", Kill(kill), **changes)
    assert list((folder / "killed").glob("checkpoint-*"))
    resumed, same = tune(family, method, rows, folder / "killed", **changes)
    assert_equal_bits(whole, resumed)
    assert curve == same
    assert same.throughput.tokens == curve.throughput.tokens
    assert 0 < same.throughput.earlier_seconds < same.throughput.seconds


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("method", TUNINGS)
def test_a_killed_training_ends_with_the_same_bits_as_an_uninterrupted_one(
    family: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    assert_a_resumed_training_ends_the_same(family, method, rows, tmp_path, kill=3)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("kind", LORA_KINDS)
def test_a_killed_training_of_every_kind_of_lora_ends_the_same(
    family: str, kind: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    changes = LORA_KINDS[kind]
    assert_a_resumed_training_ends_the_same(family, "lora", rows, tmp_path, kill=3, **changes)


@pytest.mark.parametrize(
    ("kill", "changes"),
    [
        (4, {}),
        (4, {"lr_scheduler": "constant"}),
        (5, {"max_steps": 6, "batch_size": 8}),
        (5, {"max_steps": 6, "batch_size": 2, "gradient_accumulation_steps": 3}),
        (5, {"max_steps": 6, "logging_steps": 2, "save_steps": 3}),
    ],
    ids=[
        "killed after the last step",
        "killed after the last step of a constant rate",
        "resumed in another epoch",
        "resumed with accumulation",
        "saved and logged out of step",
    ],
)
def test_it_does_not_matter_where_a_training_was_killed(
    kill: int, changes: dict[str, Any], rows: TokenizedRows, tmp_path: Path
) -> None:
    assert_a_resumed_training_ends_the_same(
        "chatglm2-6b", "ptuning", rows, tmp_path, kill, **changes
    )


# At this learning rate dev losses sometimes rise, at steps that differ between machines.
TOO_FAST = {
    **{"lr": 0.3, "lr_scheduler": "constant", "warmup_ratio": 0.0},
    **{"max_steps": 10, "eval_steps": 2},
}


@pytest.mark.parametrize(("kill", "patience"), [(3, 1), (4, 1), (7, 2), (9, 2)])
def test_a_resumed_training_stops_early_at_the_same_step(
    kill: int, patience: int, rows: TokenizedRows, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        **TOO_FAST,
        "early_stopping_patience": patience,
        "keep_best": True,
        "save_steps": 2,
    }
    assert_a_resumed_training_ends_the_same("chatglm2-6b", "full", rows, tmp_path, kill, **changes)


def test_the_best_weights_are_from_this_run(rows: TokenizedRows, tmp_path: Path) -> None:
    """A killed run left better weights, from a step that this run, elsewhere, never reached."""
    changes: dict[str, Any] = {**TOO_FAST, "keep_best": True, "save_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        tune("chatglm2-6b", "full", rows, tmp_path, Kill(3), **changes)
    best = tmp_path / "best.safetensors"
    poisoned = {name: torch.zeros_like(tensor) for name, tensor in load_file(best).items()}
    save_file(poisoned, best)
    # No more dev losses are measured, so the best step is the checkpoint's on every machine.
    model, outcome = tune("chatglm2-6b", "full", rows, tmp_path, **changes | {"max_steps": 2})
    assert outcome.best_step == 2
    assert mean_loss(model, rows, 4, pad_token_id=3) == pytest.approx(outcome.dev_loss, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("optimizer", ["adafactor", "adamw_8bit", "paged_adamw_8bit"])
def test_every_optimizer_learns_and_resumes(
    optimizer: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    if "8bit" in optimizer:
        pytest.importorskip("bitsandbytes")
    changes: dict[str, Any] = {"optimizer": optimizer, "max_steps": 8}
    _, outcome = tune("chatglm2-6b", "full", rows, tmp_path / "learns", **changes)
    assert losses(outcome)[-1] < losses(outcome)[0]
    assert_a_resumed_training_ends_the_same(
        "chatglm2-6b", "full", rows, tmp_path, kill=5, optimizer=optimizer, max_steps=8
    )


class Sigkill(TrainerCallback):
    """SIGKILLs its own process within a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_after(seconds: float, training: Any) -> bool:
    """Run `training` in a process and SIGKILL it after `seconds`; return whether it was killed."""
    child = os.fork()
    if child == 0:
        # Otherwise progress bars share a lock with this process, and it might die holding it.
        for bar in (tqdm.std.tqdm, tqdm.auto.tqdm):
            bar.set_lock(threading.RLock())
        try:
            training()
        finally:
            os._exit(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == signal.SIGKILL
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("method", TUNINGS)
def test_kill_9_at_any_moment_loses_nothing(
    family: str, method: str, rows: TokenizedRows, tmp_path: Path
) -> None:
    changes = {"max_steps": 12, "save_steps": 1}
    start = time.perf_counter()
    whole, curve = tune(family, method, rows, tmp_path / "whole", **changes)
    duration = time.perf_counter() - start
    moments = [random.uniform(0, duration) for _ in range(2)]

    def training(*callbacks: TrainerCallback) -> None:
        tune(family, method, rows, tmp_path / "killed", *callbacks, **changes)

    # A later training may be over before its moment: the first is slower, because it warms up.
    assert kill_after(60, lambda: training(Sigkill(6))), "it died of something else"
    assert checkpoints_in(tmp_path / "killed")[-1].name == "checkpoint-6"
    killed = [kill_after(moment, training) for moment in moments]
    resumed, same = tune(family, method, rows, tmp_path / "killed", **changes)
    assert_equal_bits(whole, resumed)
    assert curve == same, f"killed after {moments} s of {duration}: {killed}"
    *older, newest = checkpoints_in(tmp_path / "killed")
    assert newest.name == "checkpoint-12"
    # A kill between the last checkpoint and the removal of the one before it leaves both.
    assert [path.name for path in older] in ([], ["checkpoint-11"])
