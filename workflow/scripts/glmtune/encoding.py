"""From rows of text to the tokens that generation starts from.

What training reads is made by `glmtune.tokenizing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from glmtune.families.family import Template
from glmtune.tokenizer import Tokenizer

Row = Mapping[str, Any]  # {"content", "summary"}, also "history": earlier messages


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
        )
        for row in rows
    ]
