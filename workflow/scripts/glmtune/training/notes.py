"""What is worth saying of a training: before it begins, and when it has ended.

The log shows a note as it comes up; the training's manifest holds all, and the report shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glmtune.training.settings import TrainingSettings

# Fewer parameters are a miniature or a test, whose learning rates are its own.
LARGE = 1e9
# The published vocabularies spell 0.02 % (ChatGLM2) and 0.06 % (ChatGLM) of the tokens of
# AdvertiseGen's answers, a miniature's own vocabulary two thirds, and none of the sample data's.
SPELLED_SHARE = 0.05
# A training has diverged when its last losses are this far above its first one. Both must hold:
# a small batch may begin with easy rows, and a low loss may double without harm.
DIVERGED_FACTOR, DIVERGED_NATS = 1.5, 1.0
LAST_LOSSES = 5


def rate_notes(lr: float, usual: tuple[float, float] | None, title: str, size: int) -> list[str]:
    """What is unusual about the learning rate of a model of `size` parameters.

    `usual` is the range of published trainings of 6B models; small ones have rates of their own.
    """
    if size < LARGE or usual is None:
        return []
    low, high = usual
    if low <= lr <= high:
        return []
    risk = "it will hardly learn" if lr < low else "it may diverge, or forget what it knew"
    return [
        f"lr {lr:g} is outside the published range of {title} on 6B models ({low:g} to {high:g}): "
        f"{risk}"
    ]


def step_notes(rows: int, settings: TrainingSettings) -> list[str]:
    """That an optimizer step asks for more rows than there are."""
    size, times = settings.batch_size, settings.gradient_accumulation_steps
    if rows >= size * times:
        return []
    return [
        f"batch_size {size} x gradient_accumulation_steps {times} exceeds the {rows} training "
        "rows; each step uses all of them"
    ]


def coverage_notes(split: Mapping[str, Any]) -> list[str]:
    """That a vocabulary does not cover a split's answers; `split` is its tokenised summary."""
    targets, rows = split["target_tokens"], split["rows"]
    share = split["spelled_tokens"] / targets if targets else 0.0
    if share <= SPELLED_SHARE:
        return []
    cut = split["cut_answers"] / rows
    return [
        f"the model's vocabulary does not cover the data: {share:.0%} of the answers' tokens are "
        f"single bytes or unknown, {cut:.0%} of the answers are cut, and a model will hardly learn "
        "to write them; set models.<name>.tokenizer to a vocabulary of these texts (a published "
        "one: presets/adgen-miniature.yaml shows it), or tune a model that has one"
    ]


def divergence_notes(losses: Sequence[float], lr: float) -> list[str]:
    """That a training ended far above its start, whatever the model and the data.

    `losses` are the logged ones in nats, the first step's first. The last few are averaged.
    """
    if len(losses) < 2:
        return []
    start, last = losses[0], losses[1:][-LAST_LOSSES:]
    end = sum(last) / len(last)
    if end <= max(DIVERGED_FACTOR * start, start + DIVERGED_NATS):
        return []
    return [
        f"the loss began at {start:.2f} and ended at {end:.2f}: training diverged; lower lr "
        f"(now {lr:g}), or lengthen its warm-up"
    ]
