"""Encodes rows of text with a template: prompts for generation, and training rows."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from glmtune.errors import DataError
from glmtune.families.conversation import NO_TOOLS, Row, uses_tools
from glmtune.families.family import Example, Template
from glmtune.families.long_history import shorten_history
from glmtune.families.tokenizers import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """The token ids that generation starts from, and whether history turns were dropped."""

    ids: list[int]
    is_shortened: bool = False


def encode_prompts(
    template: Template,
    tokenizer: Tokenizer,
    rows: Iterable[Row],
    *,
    max_source_tokens: int,
    long_history: str,
) -> list[Prompt]:
    """Encode the prompt of each row; `long_history` is one of LONG_HISTORY."""
    prompts = []
    for row in rows:
        fitted = _drop_old_turns(template, tokenizer, row, max_source_tokens, long_history)
        ids = _prompt_ids(template, tokenizer, fitted, max_source_tokens)
        prompts.append(Prompt(ids, is_shortened=fitted is not row))
    return prompts


def encode_example(
    template: Template,
    tokenizer: Tokenizer,
    row: Row,
    *,
    max_source_tokens: int,
    max_target_tokens: int,
    long_history: str,
) -> Example:
    """Encode one training row; DataError for tools if the template does not support them.

    A shortened history gives the same prompt as in `encode_prompts`.
    """
    limits = {"max_source_tokens": max_source_tokens, "max_target_tokens": max_target_tokens}
    whole = _encode_row(template, tokenizer, row, limits)
    if not whole.prompt_is_cut:
        return whole
    fitted = _drop_old_turns(template, tokenizer, row, max_source_tokens, long_history)
    if fitted is row:
        return whole
    return replace(
        _encode_row(template, tokenizer, fitted, limits),
        prompt_tokens=whole.prompt_tokens,
        answer_tokens=whole.answer_tokens,
        history_is_shortened=True,
    )


def _drop_old_turns(
    template: Template, tokenizer: Tokenizer, row: Row, max_source_tokens: int, long_history: str
) -> Row:
    """The row without the oldest turns that do not fit into the prompt."""

    def fits(row: Row) -> bool:
        # Templates differ in what they count and add: a prompt fits if the limit removes nothing.
        limits = (max_source_tokens, sys.maxsize)
        limited, whole = (_prompt_ids(template, tokenizer, row, limit) for limit in limits)
        return limited == whole

    return shorten_history(row, fits) if long_history == "shorten" else row


def _prompt_ids(
    template: Template, tokenizer: Tokenizer, row: Row, max_source_tokens: int
) -> list[int]:
    return template.encode_prompt(
        tokenizer,
        row["content"],
        row.get("history", ()),
        max_source_tokens=max_source_tokens,
        **_tool_arguments(template, row, "role"),
    )


def _encode_row(
    template: Template, tokenizer: Tokenizer, row: Row, limits: dict[str, int]
) -> Example:
    return template.encode_example(
        tokenizer,
        row["content"],
        row["summary"],
        row.get("history", ()),
        **limits,
        **_tool_arguments(template, row, "role", "metadata"),
    )


def _tool_arguments(template: Template, row: Row, *keys: str) -> dict[str, str]:
    """The values of those of these keys that a conversation with tools has."""
    if not template.takes_tools and uses_tools(row):
        raise DataError(NO_TOOLS)
    return {key: row[key] for key in keys if key in row}
