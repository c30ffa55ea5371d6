"""Callbacks for non-finite losses, a dev loss that no longer falls, and the progress bar."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerState

from glmtune.errors import ResourceError
from glmtune.training.resuming import checkpoints_in

# The Trainer's name for the dev loss, in its log and its progress bar.
DEV_LOSS = "eval_loss"
TOO_HIGH = "too high a learning rate (now {lr}) or half precision"


class StopOnBadLoss(TrainerCallback):
    """Stops a training whose loss is exactly 0 or not finite; its last checkpoint stays.

    The loss is checked whenever it is logged, which includes every step with a checkpoint. So there
    are never unlogged losses that a checkpoint would have to hold.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Request a log entry before a checkpoint and at the end."""
        if state.global_step % args.save_steps == 0 or state.global_step == args.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raise ResourceError with the step and the usual causes."""
        for name in {"loss", DEV_LOSS} & (logs or {}).keys():
            loss, is_dev = logs[name], name == DEV_LOSS
            if not math.isfinite(loss) or (loss == 0 and not is_dev):
                raise explain_loss(args, state.global_step, loss, is_dev=is_dev)


def explain_loss(args: Any, step: int, loss: float, *, is_dev: bool) -> ResourceError:
    """Return the error for a loss from which no training recovers."""
    causes, fix = TOO_HIGH.format(lr=args.learning_rate), "lower lr"
    if loss == 0:
        causes = "rows without a target, memorized rows, or underflow in half precision"
        fix = "check target_tokens in data/tokenized, or lower max_steps or lr"
    elif is_dev:
        causes = f"dev rows without a target, {causes}"
        fix = "check target_tokens in data/tokenized, or lower lr"
    name = "dev loss" if is_dev else "loss"
    return ResourceError(
        f"the {name} is {loss} at step {step}: the usual causes are {causes}; {fix}"
        f"{_resume_hint(args)}"
    )


def explain_divergence(args: Any, step: int) -> ResourceError:
    """Return the error for non-finite weights after a step whose loss was still finite."""
    return ResourceError(
        f"the weights contain NaN or inf after step {step}: the usual causes are "
        f"{TOO_HIGH.format(lr=args.learning_rate)}; lower lr{_resume_hint(args)}"
    )


def _resume_hint(args: Any) -> str:
    checkpoints = checkpoints_in(Path(args.output_dir))
    return f"; the last good checkpoint is {checkpoints[-1]}" if checkpoints else ""


class WatchDevLoss(TrainerCallback):
    """Measures the dev loss every `every` steps; stops once it has not fallen `patience` times.

    Its only state is the log, which checkpoints contain: a resumed training stops at the same step
    as an uninterrupted one.
    """

    def __init__(self, every: int, patience: int | None) -> None:
        self.every = every
        self.patience = patience

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Request a measurement at this step, and a log entry with the training loss."""
        if state.global_step % self.every == 0 or state.global_step == args.max_steps:
            control.should_evaluate = control.should_log = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if the dev loss has stalled."""
        if self.has_stalled(state):
            control.should_training_stop = True

    def has_stalled(self, state: TrainerState) -> bool:
        """Return whether the lowest dev loss is `patience` measurements old."""
        losses = [loss for _, loss in dev_losses(state)]
        if self.patience is None or not losses:
            return False
        lowest = losses.index(min(losses))
        return len(losses) - 1 - lowest >= self.patience


def dev_losses(state: TrainerState) -> list[tuple[int, float]]:
    """(step, dev loss) of every measurement so far."""
    return [
        (int(entry["step"]), entry[DEV_LOSS]) for entry in state.log_history if DEV_LOSS in entry
    ]


class ProgressWithLoss(ProgressCallback):
    """A progress bar with the latest losses and a steady estimate of the time left.

    The Trainer's own prints a line for each loss, takes the steps before a resumed training for
    work of its first second, and follows the speed of the last few steps.
    """

    training_bar: Any  # transformers has no type for it

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin at the step that is resumed; smoothing=0 is the mean over all steps."""
        self.resumed_from = self.current_step = state.global_step
        self.training_bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            smoothing=0,
            miniters=1,
            unit="steps",
            dynamic_ncols=True,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the step, and leave the first out of the estimate: it also warms up."""
        super().on_step_end(args, state, control)
        bar = self.training_bar
        if state.global_step == self.resumed_from + 1 and not bar.disable:
            bar.initial = bar.n
            bar.start_t += bar.format_dict["elapsed"]

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the latest losses."""
        shown = {"loss": "loss", DEV_LOSS: "dev"}
        found = {shown[key]: f"{value:.3f}" for key, value in (logs or {}).items() if key in shown}
        if self.training_bar is not None and found:
            self.losses = getattr(self, "losses", {}) | found
            self.training_bar.set_postfix(self.losses)
