"""Rows of text as what a template encodes: the prompts of generation, and training rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from glmtune.conversation import NO_TOOLS, uses_tools
from glmtune.errors import DataError
from glmtune.families.family import Example, Template
from glmtune.tokenizer import Tokenizer

Row = Mapping[str, Any]  # as in `glmtune.data.rows`


def encode_prompts(
    template: Template, tokenizer: Tokenizer, rows: Iterable[Row], *, max_source_tokens: int
) -> list[list[int]]:
    """The token ids that generation starts from, for each row."""
    return [
        template.encode_prompt(
            tokenizer,
            row["content"],
            row.get("history", ()),
            max_source_tokens=max_source_tokens,
            **_of_tools(template, row, "role"),
        )
        for row in rows
    ]


def encode_example(
    template: Template,
    tokenizer: Tokenizer,
    row: Row,
    *,
    max_source_tokens: int,
    max_target_tokens: int,
) -> Example:
    """One training row; DataError for tools where the template has no place for them."""
    return template.encode_example(
        tokenizer,
        row["content"],
        row["summary"],
        row.get("history", ()),
        max_source_tokens=max_source_tokens,
        max_target_tokens=max_target_tokens,
        **_of_tools(template, row, "role", "metadata"),
    )


def _of_tools(template: Template, row: Row, *keys: str) -> dict[str, str]:
    """What only a conversation with tools has, of these keys."""
    if not template.takes_tools and uses_tools(row):
        raise DataError(NO_TOOLS)
    return {key: row[key] for key in keys if key in row}
