"""Notes that warn about a training, before it begins and after it ends.

The log shows each note as it arises; the training's manifest and the report hold all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glmtune.training.settings import TrainingSettings

# Models with fewer parameters are miniatures or tests, which need other learning rates.
LARGE = 1e9
# The share of spelled-out tokens in AdvertiseGen's answers is 0.02 % (ChatGLM2) and 0.06 %
# (ChatGLM) with the published vocabularies, and two thirds with a miniature's own, for which it is
# 0 in the sample data.
SPELLED_SHARE = 0.05
# A training has diverged if its last losses exceed its first one by both of these: a small batch
# may begin with easy rows, and a low loss may double without harm.
DIVERGED_FACTOR, DIVERGED_NATS = 1.5, 1.0
LAST_LOSSES = 5


def rate_notes(lr: float, usual: tuple[float, float] | None, title: str, size: int) -> list[str]:
    """Return a note if the learning rate is unusual for a model with `size` parameters.

    `usual` is the range of published trainings of 6B models; small models need other rates.
    """
    if size < LARGE or usual is None:
        return []
    low, high = usual
    if low <= lr <= high:
        return []
    too_low = "the model will hardly learn"
    too_high = "training may diverge, or the model may forget what it knew"
    return [
        f"lr {lr:g} is outside the published range of {title} on 6B models ({low:g} to {high:g}): "
        f"{too_low if lr < low else too_high}"
    ]


def step_notes(rows: int, settings: TrainingSettings) -> list[str]:
    """Return a note if an optimizer step needs more rows than there are."""
    size, times = settings.batch_size, settings.gradient_accumulation_steps
    if rows >= size * times:
        return []
    return [
        f"batch_size {size} x gradient_accumulation_steps {times} exceeds the {rows} training "
        "rows; each step uses all of them"
    ]


def coverage_notes(split: Mapping[str, Any]) -> list[str]:
    """Return a note if a vocabulary does not cover a split's answers; `split` is its summary."""
    targets, rows = split["target_tokens"], split["rows"]
    share = split["spelled_tokens"] / targets if targets else 0.0
    if share <= SPELLED_SHARE:
        return []
    cut = split["cut_answers"] / rows
    return [
        f"the model's vocabulary does not cover the data: {share:.0%} of the answers' tokens are "
        f"single bytes or unknown, {cut:.0%} of the answers are truncated, and the model will "
        "hardly learn to write them; set models.<name>.tokenizer to a vocabulary made for such "
        "texts (presets/adgen-miniature.yaml uses a published one), or tune a model that has one"
    ]


def divergence_notes(losses: Sequence[float], lr: float) -> list[str]:
    """Return a note if the loss ended far above its start, whatever the model and the data.

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
