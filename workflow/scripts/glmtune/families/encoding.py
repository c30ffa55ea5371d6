"""Rows of text as what a template encodes: the prompts of generation, and training rows."""

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
    """The token ids that generation starts from, and whether turns of the history are missing."""

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
    """The prompt of each row; `long_history` is one of LONG_HISTORY."""
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
    """One training row; DataError for tools where the template has no place for them.

    A history that is shortened leaves the same prompt as in `encode_prompts`.
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
    """The row without the turns that its prompt has no room for."""

    def fits(row: Row) -> bool:
        # What a template counts and adds is its own: a prompt fits if the limit takes nothing away.
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
    """What only a conversation with tools has, of these keys."""
    if not template.takes_tools and uses_tools(row):
        raise DataError(NO_TOOLS)
    return {key: row[key] for key in keys if key in row}
