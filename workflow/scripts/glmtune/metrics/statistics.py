"""Statistics of generated texts besides the four scores, mostly without a reference.

They describe the texts that the default protocol scores. Any BLEU-4 or ROUGE-L among them follows
its definition, whichever protocol the headline uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glmtune.metrics.pairs import TextPair, is_blank, words_of
from glmtune.metrics.scorings import bleu_of_characters, mean, thudm

UNKNOWN = "<UNK>"  # ADGEN's placeholder for removed words: in 300 of its 1,070 dev references
NGRAM = 4  # words, as in Distinct-4 and Repetition-4


@dataclass(frozen=True)
class Statistic:
    """A value for each row, and how to aggregate them to one number."""

    of_row: Callable[[TextPair], Any]
    of_file: Callable[[Sequence[Any]], float | None] = mean
    has_row_value: bool = True  # False: defined only for the whole file


# --- content and form -----------------------------------------------------------------------------


def attribute_recall(pair: TextPair) -> float | None:
    """Percentage of requested attribute values that appear verbatim in the response, or None.

    The Coverage of the ADGEN paper, except that a value requested twice counts once. None if the
    file as a whole is not in ADGEN's format.
    """
    if pair.requested is None:
        return None
    return 100 * sum(value in pair.response for value in pair.requested) / len(pair.requested)


def attribute_precision(pair: TextPair) -> float | None:
    """Percentage of requested values among those in the response that are requested or contradict.

    None if the response has neither, or the prompt lists no attributes. `KnownValues` in
    glmtune/metrics/attribute_values.py defines what contradicts.
    Example: 颜色#白色*材质#纯棉 and 黑色纯棉长裤 -> 50: 纯棉 is right, 黑色 contradicts.
    """
    if pair.requested is None or pair.contradicting is None:
        return None
    right = sum(value in pair.response for value in pair.requested)
    counted = right + len(pair.contradicting)
    return 100 * right / counted if counted else None


def length(pair: TextPair) -> float:
    """The number of characters in the response."""
    return float(len(pair.response))


def lengths(pair: TextPair) -> tuple[int, int]:
    """The numbers of characters in the response and in the reference."""
    return len(pair.response), len(pair.reference)


def length_ratio(rows: Sequence[tuple[int, int]]) -> float | None:
    """The length of all responses as a percentage of that of all references."""
    responses, references = map(sum, zip(*rows, strict=True))
    return 100 * responses / references if references else None


def empty(pair: TextPair) -> float:
    """100 if the response is empty or whitespace, else 0."""
    return 100.0 if is_blank(pair.response) else 0.0


def cut_off(pair: TextPair) -> float | None:
    """100 if the response reached the length limit, else 0; None if unknown."""
    return None if pair.finished is None else 100.0 * (not pair.finished)


# --- variety --------------------------------------------------------------------------------------


def ngrams_of_words(pair: TextPair) -> list[tuple[str, ...]]:
    """The word 4-grams of the response, ignoring whitespace."""
    words = words_of(pair.response)
    return [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]


def repetition(pair: TextPair) -> float:
    """100 if the response repeats a word 4-gram, else 0.

    The mean is the Repetition-4 of the ADGEN paper; it is high for a model that never stops.
    """
    ngrams = ngrams_of_words(pair)
    return 100.0 if len(set(ngrams)) < len(ngrams) else 0.0


def distinct_ngrams(rows: Sequence[list[tuple[str, ...]]]) -> float | None:
    """The percentage of distinct word 4-grams in the file: Distinct-4."""
    ngrams = [ngram for row in rows for ngram in row]
    return 100 * len(set(ngrams)) / len(ngrams) if ngrams else None


def distinct_texts(texts: Sequence[str]) -> float:
    """The percentage of distinct predictions."""
    return 100 * len(set(texts)) / len(texts)


# --- fairer references ----------------------------------------------------------------------------


def without_unknown(pair: TextPair) -> TextPair:
    """Remove <UNK> from both texts if the reference has one, else return the pair itself.

    No model can guess a removed word.
    Example: 白<UNK>裙 against 白色<UNK>裙 -> 白裙 against 白色裙.
    """
    if UNKNOWN not in pair.reference:
        return pair
    return TextPair(pair.response.replace(UNKNOWN, ""), pair.reference.replace(UNKNOWN, ""))


def bleu_of_any_reference(pair: TextPair) -> float | None:
    """BLEU-4 against the references of all rows with the same prompt; None without prompts.

    An n-gram counts if any reference has it: 长裤美了 against 长裤 and 美了.
    """
    references = _known_references(pair)
    if references is None:
        return None
    if not references or is_blank(pair.response):
        return 0.0
    return bleu_of_characters(references, pair.response)


def rouge_of_best_reference(pair: TextPair) -> float | None:
    """The best ROUGE-L against references of rows with the same prompt; None without prompts."""
    references = _known_references(pair)
    if references is None:
        return None
    scores = (thudm(TextPair(pair.response, reference))["rouge-l"] for reference in references)
    return max(scores, default=0.0)


def _known_references(pair: TextPair) -> tuple[str, ...] | None:
    if pair.references is None:
        return None
    return tuple(reference for reference in pair.references if not is_blank(reference))


STATISTICS: dict[str, Statistic] = {
    "attribute-recall": Statistic(attribute_recall),
    "attribute-precision": Statistic(attribute_precision),
    "length": Statistic(length),
    "length-ratio": Statistic(lengths, length_ratio, has_row_value=False),
    "distinct": Statistic(lambda pair: pair.response, distinct_texts, has_row_value=False),
    "distinct-4": Statistic(ngrams_of_words, distinct_ngrams, has_row_value=False),
    "repetition": Statistic(repetition),
    "empty": Statistic(empty),
    "cut-off": Statistic(cut_off),
    "bleu-4-no-unk": Statistic(lambda pair: thudm(without_unknown(pair))["bleu-4"]),
    "rouge-l-no-unk": Statistic(lambda pair: thudm(without_unknown(pair))["rouge-l"]),
    "bleu-4-multi": Statistic(bleu_of_any_reference),
    "rouge-l-multi": Statistic(rouge_of_best_reference),
}
