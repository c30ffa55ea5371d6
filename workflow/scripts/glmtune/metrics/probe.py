"""Measures forgetting: compares answers to general questions with the untuned model's.

A tuned model may give every answer the style of its training data: asked for the capital of France,
it writes an ad. Texts are normalized (`normal_form`), so punctuation width does not count as style.
Knows texts only; the questions are in `glmtune.synthetic.general_qa`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from glmtune.metrics.rouge import rouge_chinese
from glmtune.normal_form import normal_form

NGRAM = 4  # characters
STYLE_SHARE = 0.5  # of an answer's n-grams; at least this much imitates the training answers
TRAINING_ANSWERS = 2000  # the number that defines the style


@dataclass(frozen=True)
class Verdict:
    """The verdict on one answer."""

    is_correct: bool
    imitates_training: bool  # reads like the training answers, unlike the untuned answer
    overlap: float | None  # with the untuned answer, 0..100; None: no such answer


@dataclass(frozen=True)
class Style:
    """The style of training answers: their n-grams of four characters."""

    ngrams: frozenset[str]

    def covers(self, response: str) -> bool:
        """Whether at least half of a response's n-grams occur in the training answers.

        这款裙子很美。 has 这款裙子, 款裙子很, 裙子很美 and 子很美。, so 这款裙子很好。 is
        covered (2 of 4) and 裙子很好看。 is not (0 of 3). Texts shorter than an n-gram never are.
        """
        found = _ngrams(response)
        return bool(found) and sum(n in self.ngrams for n in found) >= STYLE_SHARE * len(found)


def style_of(answers: Iterable[str]) -> Style:
    """The style of training answers."""
    return Style(frozenset(ngram for answer in answers for ngram in _ngrams(answer)))


def judge(response: str, reference: str, style: Style, untuned: str | None = None) -> Verdict:
    """Judge whether a response is correct, imitates the training data, and resembles untuned.

    It imitates the training data if `style` covers it but not the untuned response. It is correct
    if it contains the reference and does not imitate: an ad for a small (小) bag does not answer
    what the opposite of large is.
    """
    imitates_training = style.covers(response) and not (
        untuned is not None and style.covers(untuned)
    )
    holds_reference = _without_full_stop(reference) in normal_form(response).casefold()
    return Verdict(
        is_correct=holds_reference and not imitates_training,
        imitates_training=imitates_training,
        overlap=None if untuned is None else overlap(response, untuned),
    )


def overlap(response: str, untuned: str) -> float:
    """ROUGE-L F1 over characters, 0..100; two blank texts score 100.

    等于八。 and 等于九。: 3 of 4 characters are shared in order, so 75.
    """
    ours, theirs = (" ".join(_compared_characters(text)) for text in (response, untuned))
    if not ours or not theirs:
        return 100.0 * (ours == theirs)
    return 100 * rouge_chinese(ours, theirs)["rouge-l"]


def _ngrams(text: str) -> list[str]:
    """All character 4-grams, ignoring whitespace."""
    characters = _compared_characters(text)
    return [characters[start : start + NGRAM] for start in range(len(characters) - NGRAM + 1)]


def _compared_characters(text: str) -> str:
    """The normalized text without whitespace."""
    return "".join(normal_form(text).split())


def _without_full_stop(reference: str) -> str:
    """A reference without its final mark. Example: "等于八。" -> "等于八"."""
    return normal_form(reference).rstrip("。.!").casefold()
