"""One function a public definition of BLEU-4 and ROUGE; docs/metrics.md holds them side by side.

A definition may score a row, or leave it out of the mean (None), or count in each row what only the
whole file turns into a score. Where the original stops with an error, at blank texts, a row is
scored 0 and stays. Means are taken as each original takes them, so that every digit is its own:
numpy adds in pairs, a loop one after another, and some round the result.
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
    """The mean of the values that are not None, as numpy.mean adds them; None if there are none."""
    import numpy as np

    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def running_mean(values: Sequence[float], *, scale: int, digits: int) -> float | None:
    """The mean as a loop adds it (not sum(), which compensates from Python 3.12 on), rounded."""
    if not values:
        return None
    return round(functools.reduce(operator.add, values, 0.0) / len(values) * scale, digits)


def mean_scores(rows: Sequence[Scores]) -> dict[str, float | None]:
    """The mean of each score over rows; None for one that the rows do not have."""
    return {name: mean([row.get(name) for row in rows]) for name in METRICS}


def as_they_are(scores: Scores) -> Scores:
    """A row's part as its scores."""
    return scores


@dataclass(frozen=True)
class Scoring:
    """What a definition takes from each row, and how the rows become one score."""

    of_row: Callable[[TextPair], Any]  # None: the row is left out
    of_file: Callable[[Sequence[Any]], dict[str, float | None]] = mean_scores
    # The scores of a row on the scale of the file's; {}: a row alone has none.
    row_scores: Callable[[Any], Scores] = as_they_are


# --- the definitions -----------------------------------------------------------------------------


def thudm(pair: TextPair) -> Scores:
    """THUDM, ptuning/main.py: 0..100, to 4 places a row; a blank text scores 0 (there: an error).

    BLEU-4 over characters (nltk, method3), ROUGE by rouge_chinese over jieba's words.
    白裙子 against 白裙子美: all of 3, 2, 1 n-grams are shared, no 4-gram: smoothed to 1/2; one
    character short: exp(1 - 4/3). BLEU-4 is 100 · exp(-1/3) · (1/2)^(1/4) = 60.2529.
    """
    if pair.blank:
        return _ZEROS
    return {"bleu-4": bleu_of_characters((pair.reference,), pair.response)} | _rouge_of_words(
        pair.response, pair.reference
    )


def llamafactory(pair: TextPair) -> Scores:
    """LLaMA-Factory, train/sft/metric.py: THUDM's, but blank texts are planned for.

    ROUGE is 0 if either text is blank; BLEU-4 is what nltk says, above 0 only where two blank texts
    share white space. So it equals `thudm` on any other row.
    """
    bleu = {"bleu-4": bleu_of_characters((pair.reference,), pair.response)}
    return (_ZEROS if pair.blank else _rouge_of_words(pair.response, pair.reference)) | bleu


def finetune_demo(pair: TextPair) -> Scores:
    """ChatGLM3, finetune_demo/finetune_hf.py: THUDM's ROUGE, BLEU-4 over words, 0..1, not rounded.

    Both texts are stripped first; a blank text scores 0 (there: an error).
    白色/裙子 against 白色/裙子: precisions 1, 1, 1/2, 1/4, so BLEU-4 is (1/8)^(1/4) = 0.594604.
    """
    response, reference = pair.response.strip(), pair.reference.strip()
    if not response or not reference:
        return _ZEROS
    bleu = sentence_bleu((segment(reference),), segment(response))
    return {"bleu-4": bleu} | _rouge_of_words(response, reference)


def mindformers(pair: TextPair) -> Scores | None:
    """MindFormers, ADGENMetric: THUDM's, but a row with a blank response is left out.

    Responses 白色的裙子 and "" of the same reference 白色的裙子: 100, not 50.
    """
    return None if is_blank(pair.response) else thudm(pair)


def ms_swift(pair: TextPair) -> Scores | None:
    """ms-swift, metrics/nlg.py: over jieba's words without blanks, 0..1; blank texts left out.

    BLEU-4 by nltk (method3), ROUGE by the package rouge. Rows are not rounded.
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
    """Percent of the mean, to 6 places."""
    return {
        name: running_mean([row[name] for row in rows], scale=100, digits=6) for name in METRICS
    }


def percent(scores: Scores) -> Scores:
    """Fractions as 0..100."""
    return {name: 100 * value for name, value in scores.items()}


def ssbuild(pair: TextPair) -> Scores:
    """ssbuild/chatglm_finetuning, evaluate.py: sacrebleu 0..100, ROUGE-L of rouge 0..1; blank is 0.

    That file scores texts as they are handed to it; here characters joined by blanks, so that its
    tokens are the characters. There is no ROUGE-1 and -2.
    白裙子美 against 白裙子长: 3 of 4, 2 of 3, 1 of 2 n-grams are shared, and half a 4-gram, so
    BLEU-4 is 100 · (3/4 · 2/3 · 1/2 · 1/2)^(1/4) = 59.4604; ROUGE-L is 3/4.
    """
    response, reference = ("".join(text.split()) for text in (pair.response, pair.reference))
    return {
        "bleu-4": sacrebleu(count_ngrams(response, reference)),
        "rouge-l": _rouge_or_zeros(" ".join(response), " ".join(reference))["rouge-l"],
    }


def yongzhuo(pair: TextPair) -> Scores:
    """yongzhuo/ChatGLM2-SFT, evaluation.py: characters joined by blanks, 0..1; blank texts score 0.

    The response, not the reference, is put in lower case and loses its blanks. ROUGE by the
    package rouge. BLEU-4 (nltk, method1) counts the blanks between characters too and so is higher.
    白裙 against 白色: "白 裙" and "白 色" share 2 of 3 signs, 1 of 2 bigrams, not the trigram
    (0.1 of 1), and there is no 4-gram (0.1 of 1): (2/3 · 1/2 · 1/10 · 1/10)^(1/4) =
    0.240281, where characters alone have (1/2 · 1/10 · 1/10 · 1/10)^(1/4) = 0.149535.
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
    """The mean, to 4 places."""
    return {name: running_mean([row[name] for row in rows], scale=1, digits=4) for name in METRICS}


def paddle_counts(pair: TextPair) -> NgramCounts:
    """PaddleNLP, metrics/bleu.py: what a row adds to the BLEU-4 of the file, in `basic_tokens`."""
    return count_ngrams(basic_tokens(pair.response), basic_tokens(pair.reference))


def paddle_scores(rows: Sequence[NgramCounts]) -> dict[str, float | None]:
    """The BLEU-4 of all rows together, 0..1; an empty response only adds a reference's length.

    白裙子美 against 白裙子美 and 长裤 against 长裙: 5 of 6, 3 of 4, 2 of 2, 1 of 1 n-grams are
    shared: (5/6 · 3/4)^(1/4) = 0.889140.
    """
    return dict.fromkeys(METRICS) | {"bleu-4": paddle_bleu(add_counts(rows))}


def no_scores(counts: NgramCounts) -> Scores:
    """Counts of a row are no score."""
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


# --- what several definitions share ---------------------------------------------------------------


def bleu_of_characters(references: tuple[str, ...], response: str) -> float:
    """Sentence BLEU-4 of nltk over characters, method3, 0..100, to 4 places."""
    return round(sentence_bleu(references, response) * 100, 4)


def _rouge_of_words(response: str, reference: str) -> Scores:
    """rouge_chinese over jieba's words, 0..100, to 4 places."""
    fractions = rouge_chinese(" ".join(segment(response)), " ".join(segment(reference)))
    return {name: round(fraction * 100, 4) for name, fraction in fractions.items()}


def _rouge_or_zeros(response: str, reference: str) -> Scores:
    try:
        return rouge_package(response, reference)
    except ValueError:
        return dict.fromkeys(ROUGES, 0.0)
