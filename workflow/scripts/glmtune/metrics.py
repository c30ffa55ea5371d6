"""Scores of generated texts against their references: row by row, then as means.

The headline scores are those of THUDM's ptuning/main.py (`compute_metrics`), equal to four places.
Public code holds other definitions under the same names: each is an entry of PROTOCOLS.
Knows nothing about models, methods or where a text comes from.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.errors import DataError, ParamsError

Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """A prediction beside its reference: each as text and, segmented once, as jieba words."""

    prediction: str
    label: str
    prediction_words: tuple[str, ...]
    label_words: tuple[str, ...]

    @property
    def blank(self) -> bool:
        """Whether either text is empty or white space; the official code stops at such a row."""
        return not self.prediction.strip() or not self.label.strip()


Metric = Callable[[Pair], float]
Statistic = Callable[[Pair, str], float | None]


# --- scores against the reference ---------------------------------------------------------------


def rouge(pair: Pair, variant: str) -> float:
    """ROUGE F1 over jieba words, 0..100, to 4 places; `variant` is "rouge-1", "rouge-2", "rouge-l".

    Words 我 / 很 / 好 against 我 / 好: precision 2/3, recall 1, so rouge-1 is 80.
    """
    prediction, label = " ".join(pair.prediction_words), " ".join(pair.label_words)
    scores = _rouge(variant).get_scores(prediction, label)
    return round(scores[0][variant]["f"] * 100, 4)


def bleu_of_characters(pair: Pair) -> float:
    """Sentence BLEU-4 over characters, 0..100, to 4 places.

    好的 against 好的: precisions 1, 1, then smoothed 1/2 and 1/4, so 100 · (1/8)^(1/4) = 59.4604.
    """
    return round(_bleu(list(pair.label), list(pair.prediction)) * 100, 4)


def bleu_of_words(pair: Pair) -> float:
    """Sentence BLEU-4 over jieba words, 0..1, not rounded."""
    return _bleu(pair.label_words, pair.prediction_words)


METRICS: dict[str, Metric] = {
    "bleu-4": bleu_of_characters,
    "rouge-1": functools.partial(rouge, variant="rouge-1"),
    "rouge-2": functools.partial(rouge, variant="rouge-2"),
    "rouge-l": functools.partial(rouge, variant="rouge-l"),
}


@dataclass(frozen=True)
class Protocol:
    """One group's way to score; every protocol scores a pair with a blank text 0 and keeps it."""

    source: str
    metrics: dict[str, Metric]
    clean: Callable[[str], str]  # what is done to both texts first


PROTOCOLS: dict[str, Protocol] = {
    "thudm-ptuning": Protocol(
        source="ChatGLM-6B and ChatGLM2-6B, ptuning/main.py",
        metrics=METRICS,
        clean=str,
    ),
    "thudm-finetune-demo": Protocol(
        source="ChatGLM3, finetune_demo/finetune_hf.py (its BLEU-4 is 0..1)",
        metrics={**METRICS, "bleu-4": bleu_of_words},
        clean=str.strip,
    ),
}
DEFAULT_PROTOCOL = "thudm-ptuning"


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`; ParamsError lists the known ones."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        known = ", ".join(sorted(PROTOCOLS))
        raise ParamsError(f"unknown scoring protocol '{name}'; choose from {known}") from None


# --- what a text is like, whatever the reference ------------------------------------------------


def asked_values(prompt: str) -> list[str] | None:
    """The distinct attribute values that an ADGEN prompt asks for; None for any other prompt.

    Example: "类型#裙*颜色#白色*图案#白色" -> ["裙", "白色"]
    """
    attributes = [attribute.split("#") for attribute in prompt.strip().split("*")]
    if any(len(parts) != 2 or not all(map(str.strip, parts)) for parts in attributes):
        return None
    return list(dict.fromkeys(value for _, value in attributes))


def attribute_recall(pair: Pair, prompt: str) -> float | None:
    """Percent of the asked attribute values that stand literally in the prediction, or None."""
    values = asked_values(prompt)
    if values is None:
        return None
    return 100 * sum(value in pair.prediction for value in values) / len(values)


def repetition(pair: Pair, prompt: str) -> float:
    """100 if some four words in a row come twice in the prediction, else 0.

    Its mean is the Repetition-4 of the ADGEN paper: a model that never stops shows here.
    """
    words = [word for word in pair.prediction_words if word.strip()]
    runs = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    return 100.0 if len(set(runs)) < len(runs) else 0.0


def empty(pair: Pair, prompt: str) -> float:
    """100 if the prediction is empty or white space, else 0."""
    return 0.0 if pair.prediction.strip() else 100.0


def length(pair: Pair, prompt: str) -> float:
    """Characters of the prediction."""
    return float(len(pair.prediction))


STATISTICS: dict[str, Statistic] = {
    "attribute-recall": attribute_recall,
    "repetition": repetition,
    "empty": empty,
    "length": length,
}


# --- rows and their means -----------------------------------------------------------------------


def score_rows(rows: Sequence[Row], protocol: str = DEFAULT_PROTOCOL) -> list[Row]:
    """Every metric and statistic of each row {"labels", "predict"[, "prompt"]}, in order."""
    definition = get_protocol(protocol)
    return [_score_row(row, definition) for row in rows]


def summarise(rows: Sequence[Row], scores: Sequence[Row]) -> dict[str, float | int | None]:
    """The means over rows, with the number of rows and the percent of distinct predictions.

    All are 0..100 except rows (a count) and length (characters). A mean leaves out None; a mean
    of nothing is None: attribute-recall where no prompt lists attributes.
    """
    means = {name: _mean([score[name] for score in scores]) for name in scores[0]}
    distinct = 100 * len({row["predict"] for row in rows}) / len(rows)
    return {**means, "distinct": distinct, "rows": len(rows)}


def _score_row(row: Row, protocol: Protocol) -> Row:
    prediction, label = protocol.clean(row["predict"]), protocol.clean(row["labels"])
    cut = _segmenter()
    pair = Pair(prediction, label, tuple(cut(prediction)), tuple(cut(label)))
    scores: Row = {
        name: 0.0 if pair.blank else metric(pair) for name, metric in protocol.metrics.items()
    }
    prompt = row.get("prompt") or ""
    return scores | {name: statistic(pair, prompt) for name, statistic in STATISTICS.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


# --- predictions files --------------------------------------------------------------------------


def read_predictions(path: Path | str) -> list[Row]:
    """Rows {"prompt", "labels", "predict"} of a predictions file in JSON Lines, in order.

    The reference may be called `labels` (as in THUDM's generated_predictions.txt) or `label`; the
    prompt may be missing. DataError names the file and the first wrong line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSON Lines with 'labels' and 'predict'")
    # Not splitlines(): a text may hold other line separators, such as U+2028.
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: no rows; expected one JSON object a line")
    return [_read_row(line, f"{path}: line {number}") for number, line in numbered]


def _read_row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 text ({error.reason}); save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not JSON; expected one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: found {type(row).__name__}; expected one JSON object a line")
    label_key = "labels" if "labels" in row or "label" not in row else "label"
    return {
        "prompt": _text_of(row, "prompt", where) if row.get("prompt") is not None else "",
        "labels": _text_of(row, label_key, where),
        "predict": _text_of(row, "predict", where),
    }


def _text_of(row: Row, key: str, where: str) -> str:
    if key not in row:
        found = ", ".join(f"'{name}'" for name in row) or "no keys"
        raise DataError(f"{where}: no '{key}'; found {found}; expected 'labels' and 'predict'")
    if not isinstance(row[key], str):
        raise DataError(f"{where}: '{key}' is {json.dumps(row[key])[:40]}; expected a text")
    return row[key]


# --- the packages that count, imported when first needed ----------------------------------------


def _bleu(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    return sentence_bleu([reference], hypothesis, smoothing_function=SmoothingFunction().method3)


@functools.cache
def _rouge(variant: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in its source, from Python 3.12 on
        from rouge_chinese import Rouge

    return Rouge(metrics=[variant])


@functools.cache
def _segmenter() -> Callable[[str], list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in its source, from Python 3.12 on
        import jieba

    jieba.setLogLevel(logging.CRITICAL)  # it tells stderr that it loads its dictionary
    return jieba.lcut
