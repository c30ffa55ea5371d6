"""What watches a training: a loss that is none, a dev loss that no longer falls, the progress."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerState

from glmtune.errors import ResourceError
from glmtune.training.resuming import checkpoints_in

# The Trainer's name for the dev loss, in its log and its progress.
DEV_LOSS = "eval_loss"
TOO_HIGH = "a learning rate that is too high (here {lr}) or half precision"


class StopOnBadLoss(TrainerCallback):
    """Stops a training whose loss is exactly 0 or no number; its last checkpoint stays.

    The loss is looked at wherever it is logged, and so wherever a checkpoint follows. A checkpoint
    does not hold the losses since the last line of the log: there are none.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for the loss before a checkpoint and at the end."""
        if state.global_step % args.save_steps == 0 or state.global_step == args.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raise ResourceError with the step and the usual causes."""
        for name in {"loss", DEV_LOSS} & (logs or {}).keys():
            loss, is_dev = logs[name], name == DEV_LOSS
            if not math.isfinite(loss) or (loss == 0 and not is_dev):
                raise explain_loss(args, state.global_step, loss, is_dev=is_dev)


def explain_loss(args: Any, step: int, loss: float, *, is_dev: bool) -> ResourceError:
    """The error for a loss that no training can go on from."""
    causes, fix = TOO_HIGH.format(lr=args.learning_rate), "lower lr"
    if loss == 0:
        causes = "rows without a target, rows learnt by heart, or half precision that loses it"
        fix = "look at the target_tokens of data/tokenized, or lower max_steps or lr"
    elif is_dev:
        causes = f"dev rows without a target, {causes}"
        fix = "look at the target_tokens of data/tokenized, or lower lr"
    name = "dev loss" if is_dev else "loss"
    return ResourceError(
        f"the {name} is {loss} at step {step}: the usual causes are {causes}; {fix}"
        f"{_last_good_checkpoint(args)}"
    )


def explain_divergence(args: Any, step: int) -> ResourceError:
    """The error for weights that are no numbers, while the loss before them was one."""
    return ResourceError(
        f"weights are no numbers after step {step}: the usual causes are "
        f"{TOO_HIGH.format(lr=args.learning_rate)}; lower lr{_last_good_checkpoint(args)}"
    )


def _last_good_checkpoint(args: Any) -> str:
    checkpoints = checkpoints_in(Path(args.output_dir))
    return f"; the last good checkpoint is {checkpoints[-1]}" if checkpoints else ""


class WatchDevLoss(TrainerCallback):
    """Asks for the dev loss every `every` steps, and stops when it has not fallen `patience` times.

    Everything is read from the log, which a checkpoint holds: a resumed training stops where an
    uninterrupted one does.
    """

    def __init__(self, every: int, patience: int | None) -> None:
        self.every = every
        self.patience = patience

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure at this step, beside the loss in training."""
        if state.global_step % self.every == 0 or state.global_step == args.max_steps:
            control.should_evaluate = control.should_log = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if there is no progress."""
        if self.has_stalled(state):
            control.should_training_stop = True

    def has_stalled(self, state: TrainerState) -> bool:
        """Whether the lowest dev loss is `patience` measurements old."""
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
    """The bar of steps with the last losses in it; the Trainer's own writes a line for each."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the losses that were just measured."""
        shown = {"loss": "loss", DEV_LOSS: "dev"}
        found = {shown[key]: f"{value:.3f}" for key, value in (logs or {}).items() if key in shown}
        if self.training_bar is not None and found:
            self.losses = getattr(self, "losses", {}) | found
            self.training_bar.set_postfix(self.losses)
