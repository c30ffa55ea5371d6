"""BLEU-4: of sentences by nltk, and from counted n-grams as sacrebleu and PaddleNLP do it."""

from __future__ import annotations

import functools
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

LONGEST_NGRAM = 4


@functools.lru_cache(maxsize=4096)
def sentence_bleu(
    references: tuple[Sequence[str], ...], response: Sequence[str], smoothing: str = "method3"
) -> float:
    """Sentence BLEU-4 of nltk, 0..1; a text is a sequence of tokens, a str one of characters.

    好的 against 好的: precisions 1, 1, then method3 puts 1/2 and 1/4: (1/8)^(1/4) = 0.594604.
    """
    from nltk.translate import bleu_score

    smooth = getattr(bleu_score.SmoothingFunction(), smoothing)
    return bleu_score.sentence_bleu(references, response, smoothing_function=smooth)


@dataclass(frozen=True)
class NgramCounts:
    """How many n-grams (n: 1 to 4) a response has, and how many of them its reference has."""

    predicted_tokens: int = 0
    reference_tokens: int = 0
    predicted: tuple[int, ...] = field(default=(0,) * LONGEST_NGRAM)
    shared: tuple[int, ...] = field(default=(0,) * LONGEST_NGRAM)


def count_ngrams(response: Sequence[str], reference: Sequence[str]) -> NgramCounts:
    """Count one row.

    Example: "aab" against "ab": 3 and 2 of the n-grams "a", "a", "b", "aa", "ab".
    """
    predicted, shared = [], []
    for length in range(1, LONGEST_NGRAM + 1):
        ours, theirs = _ngrams(response, length), _ngrams(reference, length)
        predicted.append(ours.total())
        shared.append((ours & theirs).total())
    return NgramCounts(len(response), len(reference), tuple(predicted), tuple(shared))


def add_counts(rows: Iterable[NgramCounts]) -> NgramCounts:
    """The counts of all rows together."""
    total = NgramCounts()
    for row in rows:
        total = NgramCounts(
            total.predicted_tokens + row.predicted_tokens,
            total.reference_tokens + row.reference_tokens,
            tuple(map(sum, zip(total.predicted, row.predicted, strict=True))),
            tuple(map(sum, zip(total.shared, row.shared, strict=True))),
        )
    return total


def sacrebleu(counts: NgramCounts) -> float:
    """BLEU of sacrebleu, 0..100, smoothed exponentially: where no n-gram is shared, 1/2, then 1/4.

    A response of fewer than four tokens, or without any shared token, has 0. Computed in percent
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
    return _brevity_penalty(counts) * math.exp(sum(logs) / len(logs))


def paddle_bleu(counts: NgramCounts) -> float:
    """PaddleNLP's BLEU, 0..1: not smoothed, a precision of 0 is replaced by the smallest float."""
    if not counts.predicted_tokens:
        return 0.0
    precisions = [
        shared / predicted if shared else sys.float_info.min
        for shared, predicted in zip(counts.shared, counts.predicted, strict=True)
    ]
    return _brevity_penalty(counts) * math.exp(
        math.fsum(map(math.log, precisions)) / len(precisions)
    )


def _ngrams(tokens: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(tokens[start : start + length]) for start in range(len(tokens) - length + 1)
    )


def _brevity_penalty(counts: NgramCounts) -> float:
    return math.exp(min(0.0, 1 - counts.reference_tokens / counts.predicted_tokens))
