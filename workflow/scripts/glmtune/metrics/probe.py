"""What tuning made a model forget: its answers to general questions, beside the untuned model's.

A tuned model can give all its answers the style of its training data: asked for the capital of
France it writes an advert. Texts are compared in one form (`normal_form`), so that punctuation of
another width is no other style. Knows texts only: the questions are `glmtune.synthetic.general_qa`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from glmtune.metrics.normal_form import normal_form
from glmtune.metrics.rouge import rouge_chinese

NGRAM = 4  # characters
STYLE_SHARE = 0.5  # of an answer's n-grams, from which on it reads like the training answers
TRAINING_ANSWERS = 2000  # so many show the style


@dataclass(frozen=True)
class Verdict:
    """What is said of one answer."""

    is_right: bool
    leaks_style: bool  # reads like the training answers, as the untuned answer does not
    overlap: float | None  # with the untuned answer, 0..100; None: there is none


@dataclass(frozen=True)
class Style:
    """The style of training answers: their n-grams of four characters."""

    ngrams: frozenset[str]

    def covers(self, response: str) -> bool:
        """Whether a response reads like them: at least half of its n-grams are among theirs.

        Of 这款裙子很美。 are known 这款裙子, 款裙子很, 裙子很美 and 子很美。, so 这款裙子很好。 is
        covered (2 of 4) and 裙子很好看。 is not (0 of 3). Shorter than an n-gram: never.
        """
        found = _ngrams(response)
        return bool(found) and sum(n in self.ngrams for n in found) >= STYLE_SHARE * len(found)


def style_of(answers: Iterable[str]) -> Style:
    """The style of training answers."""
    return Style(frozenset(ngram for answer in answers for ngram in _ngrams(answer)))


def judge(response: str, reference: str, style: Style, untuned: str | None = None) -> Verdict:
    """Whether a response is right, leaks the style, and how near the untuned one it is.

    It leaks the style if the style covers it and does not cover the untuned response. It is right
    if the reference is part of it and it leaks no style: an advert for a small (小) bag does not
    tell the opposite of large.
    """
    leaks_style = style.covers(response) and not (untuned is not None and style.covers(untuned))
    holds_reference = _without_full_stop(reference) in normal_form(response).casefold()
    return Verdict(
        is_right=holds_reference and not leaks_style,
        leaks_style=leaks_style,
        overlap=None if untuned is None else overlap(response, untuned),
    )


def overlap(response: str, untuned: str) -> float:
    """ROUGE-L F1 over characters, 0..100; two blank texts are the same.

    等于八。 and 等于九。: 3 of 4 characters are shared in order, so 75.
    """
    ours, theirs = (" ".join(_compared_characters(text)) for text in (response, untuned))
    if not ours or not theirs:
        return 100.0 * (ours == theirs)
    return 100 * rouge_chinese(ours, theirs)["rouge-l"]


def _ngrams(text: str) -> list[str]:
    """Every four characters in a row, white space left out."""
    characters = _compared_characters(text)
    return [characters[start : start + NGRAM] for start in range(len(characters) - NGRAM + 1)]


def _compared_characters(text: str) -> str:
    """A text in the form that is compared, without white space."""
    return "".join(normal_form(text).split())


def _without_full_stop(reference: str) -> str:
    """A reference without its last mark. Example: "等于八。" -> "等于八"."""
    return normal_form(reference).rstrip("。.!").casefold()
