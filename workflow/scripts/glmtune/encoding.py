"""From rows of text to tokenised rows, with a generation's own prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from glmtune.families.family import Family
from glmtune.files import sha256_of_bytes
from glmtune.tokenized import TokenizedRows, from_examples
from glmtune.tokenizer import Tokenizer


def encode_split(
    family: Family,
    tokenizer: Tokenizer,
    rows: Iterable[Mapping[str, str]],
    *,
    max_source_tokens: int,
    max_target_tokens: int,
) -> tuple[TokenizedRows, dict[str, Any]]:
    """Encode the rows of a split; also return the summary that identifies the result."""
    examples = (
        family.encode_example(
            tokenizer,
            row["content"],
            row["summary"],
            max_source_tokens=max_source_tokens,
            max_target_tokens=max_target_tokens,
        )
        for row in rows
    )
    tokenized = from_examples(examples)
    arrays = (tokenized.input_ids, tokenized.labels, tokenized.offsets)
    summary = {
        "rows": len(tokenized),
        "tokens": len(tokenized.input_ids),
        "target_tokens": int((tokenized.labels >= 0).sum()),
        "sha256": sha256_of_bytes(b"".join(array.tobytes() for array in arrays)),
    }
    return tokenized, summary


def encode_prompts(
    family: Family, tokenizer: Tokenizer, prompts: Iterable[str], *, max_source_tokens: int
) -> list[list[int]]:
    """The token ids that generation starts from, for each prompt."""
    return [
        family.encode_prompt(tokenizer, prompt, max_source_tokens=max_source_tokens)
        for prompt in prompts
    ]
