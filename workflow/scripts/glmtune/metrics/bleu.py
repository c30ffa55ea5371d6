"""BLEU-4: per sentence with nltk, and from n-gram counts as in sacrebleu and PaddleNLP."""

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
    """Sentence BLEU-4 by nltk, 0..1; a text is a sequence of tokens, or a str of characters.

    好的 against 好的: precisions 1, 1, then 1/2 and 1/4 by method3: (1/8)^(1/4) = 0.594604.
    """
    from nltk.translate import bleu_score

    smooth = getattr(bleu_score.SmoothingFunction(), smoothing)
    return bleu_score.sentence_bleu(references, response, smoothing_function=smooth)


@dataclass(frozen=True)
class NgramCounts:
    """The number of n-grams (n = 1 to 4) in a response, and of those shared with its reference."""

    predicted_tokens: int = 0
    reference_tokens: int = 0
    predicted: tuple[int, ...] = field(default=(0,) * LONGEST_NGRAM)
    shared: tuple[int, ...] = field(default=(0,) * LONGEST_NGRAM)


def count_ngrams(response: Sequence[str], reference: Sequence[str]) -> NgramCounts:
    """Count the n-grams of one row.

    Example: "aab" has 3 unigrams and 2 bigrams, of which "ab" shares 2 and 1.
    """
    predicted, shared = [], []
    for length in range(1, LONGEST_NGRAM + 1):
        ours, theirs = _ngrams(response, length), _ngrams(reference, length)
        predicted.append(ours.total())
        shared.append((ours & theirs).total())
    return NgramCounts(len(response), len(reference), tuple(predicted), tuple(shared))


def add_counts(rows: Iterable[NgramCounts]) -> NgramCounts:
    """The sum of the counts of all rows."""
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
    """BLEU as in sacrebleu, 0..100, with exponential smoothing: 1/2, then 1/4 for unshared n-grams.

    A response with fewer than four tokens or no shared token scores 0. Computed in percent and
    added with sum(), as in sacrebleu: other orders of operations differ in the last digit.
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
    """PaddleNLP's BLEU, 0..1, unsmoothed; a precision of 0 becomes the smallest float."""
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
