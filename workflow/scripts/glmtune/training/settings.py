"""The training settings from params.yaml, which explains each key.

Checks no ranges: `params` has done so. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


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
