"""One function per public definition of BLEU-4 and ROUGE; docs/metrics.md compares them.

A definition may score a row, skip it (None), or return counts that become a score only for the
whole file. Rows with blank texts, on which the original fails with an error, score 0. Means are
computed as in each original so that every digit agrees: numpy adds pairwise, loops add
sequentially, and some originals round.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glmtune.metrics.bleu import (
    NgramCounts,
    add_counts,
    count_ngrams,
    paddle_bleu,
    sacrebleu,
    sentence_bleu,
)
from glmtune.metrics.pairs import TextPair, basic_tokens, is_blank, segment
from glmtune.metrics.rouge import ROUGES, rouge_chinese, rouge_package

METRICS = ("bleu-4", *ROUGES)
Scores = dict[str, float]
_ZEROS = dict.fromkeys(METRICS, 0.0)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean by numpy.mean of the values that are not None; None if there are none."""
    import numpy as np

    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def running_mean(values: Sequence[float], *, scale: int, digits: int) -> float | None:
    """The rounded mean of a sequential loop (not sum(), which compensates since Python 3.12)."""
    if not values:
        return None
    return round(functools.reduce(operator.add, values, 0.0) / len(values) * scale, digits)


def mean_scores(rows: Sequence[Scores]) -> dict[str, float | None]:
    """The mean of each score over rows; None for scores that the rows lack."""
    return {name: mean([row.get(name) for row in rows]) for name in METRICS}


def as_they_are(scores: Scores) -> Scores:
    """Return a row's scores unchanged."""
    return scores


@dataclass(frozen=True)
class Scoring:
    """How a definition scores each row and aggregates the rows to file scores."""

    of_row: Callable[[TextPair], Any]  # None: the row is skipped
    of_file: Callable[[Sequence[Any]], dict[str, float | None]] = mean_scores
    # The scores of a row on the scale of the file; {}: rows have no scores.
    row_scores: Callable[[Any], Scores] = as_they_are


# --- the definitions -----------------------------------------------------------------------------


def thudm(pair: TextPair) -> Scores:
    """THUDM, ptuning/main.py: 0..100, 4 decimals per row; a blank text scores 0 (there: an error).

    BLEU-4 over characters (nltk, method3), ROUGE by rouge_chinese over jieba's words.
    白裙子 against 白裙子美: all 3, 2 and 1 n-grams are shared, the missing 4-gram counts 1/2; one
    character is missing: exp(1 - 4/3). BLEU-4 is 100 · exp(-1/3) · (1/2)^(1/4) = 60.2529.
    """
    if pair.blank:
        return _ZEROS
    return {"bleu-4": bleu_of_characters((pair.reference,), pair.response)} | _rouge_of_words(
        pair.response, pair.reference
    )


def llamafactory(pair: TextPair) -> Scores:
    """LLaMA-Factory, train/sft/metric.py: THUDM's, but handles blank texts.

    ROUGE is 0 if either text is blank; BLEU-4 is nltk's, above 0 only if two blank texts share
    whitespace. On all other rows it equals `thudm`.
    """
    bleu = {"bleu-4": bleu_of_characters((pair.reference,), pair.response)}
    return (_ZEROS if pair.blank else _rouge_of_words(pair.response, pair.reference)) | bleu


def finetune_demo(pair: TextPair) -> Scores:
    """ChatGLM3, finetune_demo/finetune_hf.py: THUDM's ROUGE, BLEU-4 over words, 0..1, unrounded.

    Both texts are stripped; a blank text scores 0 (there: an error).
    白色/裙子 against 白色/裙子: precisions 1, 1, 1/2, 1/4, so BLEU-4 is (1/8)^(1/4) = 0.594604.
    """
    response, reference = pair.response.strip(), pair.reference.strip()
    if not response or not reference:
        return _ZEROS
    bleu = sentence_bleu((segment(reference),), segment(response))
    return {"bleu-4": bleu} | _rouge_of_words(response, reference)


def mindformers(pair: TextPair) -> Scores | None:
    """MindFormers, ADGENMetric: THUDM's, but rows with a blank response are skipped.

    The responses 白色的裙子 and "" to the reference 白色的裙子 score 100, not 50.
    """
    return None if is_blank(pair.response) else thudm(pair)


def ms_swift(pair: TextPair) -> Scores | None:
    """ms-swift, metrics/nlg.py: over jieba's words without spaces, 0..1; blank texts are skipped.

    BLEU-4 by nltk (method3), ROUGE by the package rouge. Row scores are unrounded.
    白色/裙子 against 白色/裙子: BLEU-4 0.594604, ROUGE 1 (less 5e-9).
    """
    response, reference = (
        tuple(word.strip(" ") for word in segment(text) if word.strip(" "))
        for text in (pair.response, pair.reference)
    )
    if not response or not reference:
        return None
    rouge = _rouge_or_zeros(" ".join(response), " ".join(reference))
    return {"bleu-4": sentence_bleu((reference,), response)} | rouge


def ms_swift_scores(rows: Sequence[Scores]) -> dict[str, float | None]:
    """The mean in percent, to 6 decimals."""
    return {
        name: running_mean([row[name] for row in rows], scale=100, digits=6) for name in METRICS
    }


def percent(scores: Scores) -> Scores:
    """Convert fractions to 0..100."""
    return {name: 100 * value for name, value in scores.items()}


def ssbuild(pair: TextPair) -> Scores:
    """ssbuild/chatglm_finetuning, evaluate.py: sacrebleu 0..100, ROUGE-L of rouge 0..1; blank is 0.

    The original scores texts as given; here they are characters joined by spaces, so that tokens
    are characters. There is no ROUGE-1 or -2.
    白裙子美 against 白裙子长: 3 of 4, 2 of 3, 1 of 2 n-grams are shared, and half a 4-gram, so
    BLEU-4 is 100 · (3/4 · 2/3 · 1/2 · 1/2)^(1/4) = 59.4604; ROUGE-L is 3/4.
    """
    response, reference = ("".join(text.split()) for text in (pair.response, pair.reference))
    return {
        "bleu-4": sacrebleu(count_ngrams(response, reference)),
        "rouge-l": _rouge_or_zeros(" ".join(response), " ".join(reference))["rouge-l"],
    }


def yongzhuo(pair: TextPair) -> Scores:
    """yongzhuo/ChatGLM2-SFT, evaluation.py: characters joined by spaces, 0..1; blank texts score 0.

    The response, but not the reference, is lowercased and loses its spaces. ROUGE by the package
    rouge. BLEU-4 (nltk, method1) also counts the spaces between characters, so it is higher.
    白裙 against 白色: "白 裙" and "白 色" share 2 of 3 characters, 1 of 2 bigrams, not the trigram
    (0.1 of 1), and there is no 4-gram (0.1 of 1): (2/3 · 1/2 · 1/10 · 1/10)^(1/4) =
    0.240281; without the spaces, (1/2 · 1/10 · 1/10 · 1/10)^(1/4) = 0.149535.
    """
    text = pair.response.lower().replace(" ", "").replace("[eop]", "")
    response, reference = " ".join(text), " ".join(pair.reference)
    if is_blank(response) or is_blank(reference):
        return _ZEROS
    try:
        rouge = rouge_package(response, reference)
    except ValueError:
        return _ZEROS
    return {"bleu-4": sentence_bleu((reference,), response, "method1")} | rouge


def yongzhuo_scores(rows: Sequence[Scores]) -> dict[str, float | None]:
    """The mean, to 4 decimals."""
    return {name: running_mean([row[name] for row in rows], scale=1, digits=4) for name in METRICS}


def paddle_counts(pair: TextPair) -> NgramCounts:
    """PaddleNLP, metrics/bleu.py: a row's `basic_tokens` counts for the BLEU-4 of the file."""
    return count_ngrams(basic_tokens(pair.response), basic_tokens(pair.reference))


def paddle_scores(rows: Sequence[NgramCounts]) -> dict[str, float | None]:
    """The BLEU-4 of all rows together, 0..1; an empty response adds only its reference length.

    白裙子美 against 白裙子美 and 长裤 against 长裙: 5 of 6, 3 of 4, 2 of 2, 1 of 1 n-grams are
    shared: (5/6 · 3/4)^(1/4) = 0.889140.
    """
    return dict.fromkeys(METRICS) | {"bleu-4": paddle_bleu(add_counts(rows))}


def no_scores(counts: NgramCounts) -> Scores:
    """Rows have counts but no scores."""
    return {}


SCORINGS: dict[str, Scoring] = {
    "thudm": Scoring(thudm),
    "llamafactory": Scoring(llamafactory),
    "finetune_demo": Scoring(finetune_demo),
    "mindformers": Scoring(mindformers),
    "ms_swift": Scoring(ms_swift, ms_swift_scores, percent),
    "ssbuild": Scoring(ssbuild),
    "yongzhuo": Scoring(yongzhuo, yongzhuo_scores),
    "paddle": Scoring(paddle_counts, paddle_scores, no_scores),
}


# --- shared by several definitions ----------------------------------------------------------------


def bleu_of_characters(references: tuple[str, ...], response: str) -> float:
    """Sentence BLEU-4 by nltk over characters, method3, 0..100, to 4 decimals."""
    return round(sentence_bleu(references, response) * 100, 4)


def _rouge_of_words(response: str, reference: str) -> Scores:
    """rouge_chinese over jieba's words, 0..100, to 4 decimals."""
    fractions = rouge_chinese(" ".join(segment(response)), " ".join(segment(reference)))
    return {name: round(fraction * 100, 4) for name, fraction in fractions.items()}


def _rouge_or_zeros(response: str, reference: str) -> Scores:
    try:
        return rouge_package(response, reference)
    except ValueError:
        return dict.fromkeys(ROUGES, 0.0)
