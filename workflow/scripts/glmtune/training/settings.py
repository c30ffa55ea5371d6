"""The training settings from params.yaml, which explains each key.

Checks no ranges: `params` has done so. Needs no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The values of `launcher.sharding` and their ZeRO stages (Rajbhandari et al. 2020, arXiv
# 1910.02054): nothing is sharded; gradients and optimizer are; the weights are as well.
ZERO_STAGES = {"none": 0, "zero2": 2, "zero3": 3}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The keys of params.yaml's `training`, with the learning rate and the seed."""

    seed: int
    lr: float
    max_steps: int
    batch_size: int
    gradient_accumulation_steps: int
    lr_scheduler: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    optimizer: str
    gradient_checkpointing: bool
    logging_steps: int
    save_steps: int
    eval_steps: int | None
    keep_best: bool
    early_stopping_patience: int | None

    def rows_and_passes(self, processes: int) -> tuple[int, int]:
        """(rows of all processes together in one pass, passes per optimizer step).

        A step has batch_size x gradient_accumulation_steps rows, however many processes there are.
        Each takes at most batch_size of them at once.
        Example: 1 x 16 rows by 8 processes are 8 rows in each of 2 passes.
        """
        rows = self.batch_size * self.gradient_accumulation_steps
        at_once = self.batch_size * processes
        passes = next(
            count
            for count in range(1, self.gradient_accumulation_steps + 1)
            if rows % count == 0 and rows // count <= at_once
        )
        return rows // passes, passes

    def rows_of_process(self, processes: int) -> int:
        """The rows that a process takes at once, at most."""
        return math.ceil(self.rows_and_passes(processes)[0] / processes)
