"""What watches a training: a loss that is none, a dev loss that no longer falls, the progress."""

from __future__ import annotations

import math
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerState

from glmtune.errors import ResourceError

# The Trainer's name for the dev loss, in its log and its progress.
DEV_LOSS = "eval_loss"


class StopOnBadLoss(TrainerCallback):
    """Stops a training whose loss is exactly 0 or no number; its last checkpoint stays."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raise ResourceError with the step and the usual causes."""
        name = "dev loss" if DEV_LOSS in (logs or {}) else "loss"
        loss = (logs or {}).get(DEV_LOSS if name == "dev loss" else "loss")
        if loss is None or (math.isfinite(loss) and (loss != 0 or name == "dev loss")):
            return
        cause = f"a learning rate that is too high (here {args.learning_rate}) or half precision"
        fix = "lower lr"
        if loss == 0:
            cause = "rows without a target, or half precision in which the loss vanishes"
            fix = "raise max_target_tokens, or lower lr"
        elif name == "dev loss":
            cause = f"dev rows without a target, or {cause}"
            fix = "look at the target_tokens of data/tokenized, or lower lr"
        raise ResourceError(
            f"the {name} is {loss} at step {state.global_step}: the usual causes are {cause}; "
            f"{fix}; the last checkpoint is kept"
        )


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
