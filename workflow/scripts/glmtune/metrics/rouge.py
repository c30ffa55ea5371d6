"""ROUGE F1, 0..1, as computed by the packages rouge_chinese and rouge, but fast for any length.

Both receive words joined by spaces, split that text into sentences, and count distinct n-grams over
the whole text. They differ in ROUGE-L: rouge_chinese uses the longest common subsequence of all
words, rouge the distinct words of those between any two sentences. The packages fill a table with
one cell per pair of words, through which rouge recurses. The numbers here are the same to the last
digit, computed with bit operations on whole rows of that table.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

Sentences = list[list[str]]
ROUGES = ("rouge-1", "rouge-2", "rouge-l")


@functools.lru_cache(maxsize=1024)
def rouge_chinese(response: str, reference: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L of two texts of space-separated words, as in rouge_chinese 1.0.3.

    我 很 好 against 我 好: precision 2/3 and recall 1, so ROUGE-1 and -L are 0.8; no bigram is
    shared. ValueError for a text without words, as in the package.
    """
    cut = _sentence_cutter()
    return _f1_scores(
        _words_of_sentences(cut(response)),
        _words_of_sentences(cut(reference)),
        _overlap_of_sequences,
    )


@functools.lru_cache(maxsize=1024)
def rouge_package(response: str, reference: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L of two texts of space-separated words, as in rouge 1.0.1.

    好 很 好 against 好 好: the distinct words are 好, 很 and 好, so precision is 1/2, recall 1, and
    ROUGE-1 and -L are 2/3. Only an ASCII full stop ends a sentence. ValueError for a text without
    sentences, as in the package.
    """
    return _f1_scores(
        _words_of_sentences(response.split(".")),
        _words_of_sentences(reference.split(".")),
        _overlap_of_sets,
    )


def _words_of_sentences(sentences: Sequence[str]) -> Sentences:
    # In both packages, a whitespace-only sentence counts as one empty word.
    return [sentence.split() or [""] for sentence in sentences if sentence]


def _f1_scores(
    response: Sentences,
    reference: Sentences,
    overlap: Callable[[Sentences, Sentences], tuple[int, int, int]],
) -> dict[str, float]:
    if not response or not reference:
        raise ValueError("a text without words has no ROUGE")
    counts = [
        _overlap_of_ngrams(response, reference, 1),
        _overlap_of_ngrams(response, reference, 2),
    ]
    counts.append(overlap(response, reference))
    return {name: _f1(*three) for name, three in zip(ROUGES, counts, strict=True)}


def _f1(in_response: int, in_reference: int, shared: int) -> float:
    precision = shared / in_response if in_response else 0.0
    recall = shared / in_reference if in_reference else 0.0
    # Both packages avoid division by zero like this; it affects the ninth digit.
    return 2 * (precision * recall) / (precision + recall + 1e-8)


def _all_words(sentences: Sentences) -> list[str]:
    return [word for sentence in sentences for word in sentence]


def _overlap_of_ngrams(
    response: Sentences, reference: Sentences, length: int
) -> tuple[int, int, int]:
    """The number of distinct n-grams in the response, in the reference, and in both."""
    ours, theirs = (
        {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}
        for words in (_all_words(response), _all_words(reference))
    )
    return len(ours), len(theirs), len(ours & theirs)


def _overlap_of_sequences(response: Sentences, reference: Sentences) -> tuple[int, int, int]:
    ours, theirs = _all_words(response), _all_words(reference)
    shared = len(theirs) - _subsequence_rows(ours, theirs)[-1].bit_count()
    return len(ours), len(theirs), shared


def _overlap_of_sets(response: Sentences, reference: Sentences) -> tuple[int, int, int]:
    shared: set[str] = set()
    for ours in response:
        for theirs in reference:
            shared |= _common_words(theirs, ours)
    return len(set(_all_words(response))), len(set(_all_words(reference))), len(shared)


def _common_words(first: Sequence[str], second: Sequence[str]) -> set[str]:
    """The words of the longest common subsequence that the package rouge finds."""
    table = _subsequence_rows(first, second)

    def length(i: int, j: int) -> int:
        return j - (table[i] & ((1 << j) - 1)).bit_count()

    found = set()
    i, j = len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            found.add(first[i])
        elif length(i - 1, j) > length(i, j - 1):
            i -= 1
        else:
            j -= 1
    return found


def _subsequence_rows(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Bit rows: the zeros in the low j bits of row i count the LCS of first[:i] and second[:j].

    LCS is the length of the longest common subsequence. Each row takes three operations (Hyyrö,
    Bit-parallel LCS-length computation revisited, 2004).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << place
    row = everywhere = (1 << len(second)) - 1
    rows = [row]
    for word in first:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & everywhere
        rows.append(row)
    return rows


@functools.cache
def _sentence_cutter() -> Callable[[str], list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in its source, from Python 3.12 on
        from rouge_chinese import Rouge

    cutter: Any = Rouge()
    return cutter.cut_sent
