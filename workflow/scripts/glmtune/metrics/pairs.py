"""Pairs of response and reference, and tokenization of texts by jieba or BERT.

This project's predictions files contain each text in several forms; a protocol scores the form that
its public code scores. Other files have one form, which is never altered.
"""

from __future__ import annotations

import functools
import json
import logging
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from glmtune.metrics.attribute_values import (
    Attributes,
    distinct_values,
    known_values,
    requested_attributes,
)
from glmtune.metrics.protocols import DEFAULT_PROTOCOL, PROTOCOLS, ScoringProtocol
from glmtune.normal_form import normal_form

# Enough for the texts of the rows scored at about the same time.
REMEMBERED_TEXTS = 4096
# Chinese characters as defined by BERT's basic tokenizer.
_CHINESE = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF)),
    *((0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


@dataclass(frozen=True)
class TextPair:
    """A response, its reference, and other facts about the row in the predictions file."""

    response: str
    reference: str
    requested: tuple[str, ...] | None = None  # attribute values; None: the prompt lists none
    contradicting: tuple[str, ...] | None = None  # values in the response
    finished: bool | None = None  # False: cut at the length limit; None: the file does not say
    references: tuple[str, ...] | None = None  # of all rows with this prompt; None: no prompt

    @property
    def blank(self) -> bool:
        """Whether either text is empty or whitespace; THUDM's code fails on such a row."""
        return is_blank(self.response) or is_blank(self.reference)


def is_blank(text: str) -> bool:
    """Whether a text is empty or whitespace only."""
    return not text.strip()


def pair_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, TextPair]]:
    """For each row of a predictions file, in order, the texts scored by each protocol.

    The pair of the default protocol also holds the inputs of the statistics. Rows with the same
    prompt and history share their references: ADGEN's 1,070 dev rows have only 1,000 distinct
    prompts.
    """
    is_ours = all("decoded" in row for row in rows)
    pairs = [_texts_by_protocol(row, is_ours=is_ours) for row in rows]
    attributes = _attributes_of(rows, is_ours=is_ours)
    known = known_values(attributes)
    references: dict[str, dict[str, None]] = defaultdict(dict)
    for row, each in zip(rows, pairs, strict=True):
        references[_prompt_key(row)][each[DEFAULT_PROTOCOL].reference] = None
    for row, each, requested in zip(rows, pairs, attributes, strict=True):
        pair = each[DEFAULT_PROTOCOL]
        if requested is not None:
            wrong = tuple(known.contradicting(pair.response, requested))
            pair = replace(pair, requested=distinct_values(requested), contradicting=wrong)
        each[DEFAULT_PROTOCOL] = replace(
            pair,
            finished=row.get("finished"),
            references=tuple(references[_prompt_key(row)]) if "prompt" in row else None,
        )
    return pairs


def _attributes_of(rows: Sequence[Mapping[str, Any]], *, is_ours: bool) -> list[Attributes | None]:
    """The attributes that each row requests, in the form of the texts that are scored."""
    found = requested_attributes([row.get("prompt", "") for row in rows])
    if not is_ours:
        return found
    return [each and [(key, normal_form(value)) for key, value in each] for each in found]


def _texts_by_protocol(row: Mapping[str, Any], *, is_ours: bool) -> dict[str, TextPair]:
    if not is_ours:
        return dict.fromkeys(PROTOCOLS, TextPair(row["predict"], row["labels"]))
    return {name: _texts_of(row, protocol) for name, protocol in PROTOCOLS.items()}


def _texts_of(row: Mapping[str, Any], protocol: ScoringProtocol) -> TextPair:
    response, reference = row[protocol.response_key], row.get(protocol.reference_key, row["labels"])
    if protocol.normal_form:
        response, reference = normal_form(response), normal_form(reference)
    return TextPair(response, reference)


def _prompt_key(row: Mapping[str, Any]) -> str:
    return json.dumps([row.get("prompt"), row.get("history")], sort_keys=True)


@functools.lru_cache(maxsize=REMEMBERED_TEXTS)
def segment(text: str) -> tuple[str, ...]:
    """Words of a text by jieba, including whitespace. Example: 我很好 -> ("我", "很", "好")."""
    return tuple(_jieba().lcut(text))


def words_of(text: str) -> list[str]:
    """Words of a text by jieba, without whitespace."""
    return [word for word in segment(text) if word.strip()]


def basic_tokens(text: str) -> list[str]:
    """BERT's basic tokens: single Chinese characters and punctuation, lower-case words.

    Example: 白色T恤，iPhone7! -> 白 色 t 恤 ， iphone7 !
    """
    tokens = "".join(map(_set_apart, unicodedata.normalize("NFD", text.lower())))
    return tokens.split()


@functools.lru_cache(maxsize=65536)
def _set_apart(sign: str) -> str:
    category = unicodedata.category(sign)
    if category == "Mn" or (category.startswith("C") and not sign.isspace()) or sign == "\ufffd":
        return ""  # accents, control characters, and the replacement for invalid bytes
    ascii_sign = "!" <= sign <= "~" and not sign.isalnum()
    chinese = any(first <= ord(sign) <= last for first, last in _CHINESE)
    return f" {sign} " if chinese or ascii_sign or category.startswith("P") else sign


def load_dictionary() -> None:
    """Load jieba's dictionary, for which `segment` would otherwise take most of a second."""
    _jieba().initialize()


@functools.cache
def _jieba() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in its source, from Python 3.12 on
        import jieba

    jieba.setLogLevel(logging.CRITICAL)  # it logs to stderr that it loads its dictionary
    module: ModuleType = jieba
    return module
