"""BLEU-4: of sentences as nltk counts it, and from counted runs as sacrebleu and PaddleNLP do."""

from __future__ import annotations

import functools
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

LONGEST_RUN = 4


@functools.lru_cache(maxsize=4096)
def sentence_bleu(
    references: tuple[Sequence[str], ...], prediction: Sequence[str], smoothing: str = "method3"
) -> float:
    """Sentence BLEU-4 of nltk, 0..1; a text is a sequence of tokens, a str one of characters.

    好的 against 好的: precisions 1, 1, then method3 puts 1/2 and 1/4: (1/8)^(1/4) = 0.594604.
    """
    from nltk.translate import bleu_score

    smooth = getattr(bleu_score.SmoothingFunction(), smoothing)
    return bleu_score.sentence_bleu(references, prediction, smoothing_function=smooth)


@dataclass(frozen=True)
class RunCounts:
    """How many runs of 1 to 4 tokens a prediction has, and how many of them its reference has."""

    predicted_tokens: int = 0
    reference_tokens: int = 0
    predicted: tuple[int, ...] = field(default=(0,) * LONGEST_RUN)
    shared: tuple[int, ...] = field(default=(0,) * LONGEST_RUN)


def count_runs(prediction: Sequence[str], reference: Sequence[str]) -> RunCounts:
    """Count one row. Example: "aab" against "ab": 3 and 2 of the runs "a", "a", "b", "aa", "ab"."""
    predicted, shared = [], []
    for length in range(1, LONGEST_RUN + 1):
        ours, theirs = _runs(prediction, length), _runs(reference, length)
        predicted.append(ours.total())
        shared.append((ours & theirs).total())
    return RunCounts(len(prediction), len(reference), tuple(predicted), tuple(shared))


def add_counts(rows: Iterable[RunCounts]) -> RunCounts:
    """The counts of all rows together."""
    total = RunCounts()
    for row in rows:
        total = RunCounts(
            total.predicted_tokens + row.predicted_tokens,
            total.reference_tokens + row.reference_tokens,
            tuple(map(sum, zip(total.predicted, row.predicted, strict=True))),
            tuple(map(sum, zip(total.shared, row.shared, strict=True))),
        )
    return total


def sacrebleu(counts: RunCounts) -> float:
    """BLEU of sacrebleu, 0..100, smoothed exponentially: where no run is shared, 1/2, then 1/4 is.

    A prediction of fewer than four tokens, or without any shared token, has 0. Computed in percent
    and added by sum(), as there: other orders of operation differ in the last digit.
    """
    if not all(counts.predicted) or not any(counts.shared):
        return 0.0
    logs, doubled = [], 1.0
    for shared, predicted in zip(counts.shared, counts.predicted, strict=True):
        if not shared:
            doubled *= 2
        percent = 100.0 * shared / predicted if shared else 100.0 / (doubled * predicted)
        logs.append(math.log(percent))
    return _brevity(counts) * math.exp(sum(logs) / len(logs))


def paddle_bleu(counts: RunCounts) -> float:
    """PaddleNLP's BLEU, 0..1: not smoothed, a precision of 0 is replaced by the smallest float."""
    if not counts.predicted_tokens:
        return 0.0
    precisions = [
        shared / predicted if shared else sys.float_info.min
        for shared, predicted in zip(counts.shared, counts.predicted, strict=True)
    ]
    return _brevity(counts) * math.exp(math.fsum(map(math.log, precisions)) / len(precisions))


def _runs(tokens: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(tokens[start : start + length]) for start in range(len(tokens) - length + 1)
    )


def _brevity(counts: RunCounts) -> float:
    return math.exp(min(0.0, 1 - counts.reference_tokens / counts.predicted_tokens))
