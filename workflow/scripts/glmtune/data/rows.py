"""A row of a data set, the mistakes that keep a value from being one, and words for messages.

row  {"content": last question, "summary": its answer}, and where they are needed
     "history": the messages before the question (as in `glmtune.families.conversation`)
     "role": who says `content`, unless it is the user: the last answer of a conversation with tools
         follows an observation
     "metadata": the name of the tool, where the answer is a call of one
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from glmtune.errors import DataError

Row = dict[str, Any]

LONGEST_QUOTE = 40
_NAMES = {
    dict: "an object",
    list: "an array",
    str: "text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    bytes: "bytes",
    type(None): "null",
}


class Rows(Protocol):
    """Rows that are counted and can be gone through more than once: a list, or a user's file."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Row]: ...


@dataclass(frozen=True)
class ReadRow:
    """A row, and what was done to its messages: `glmtune.data.turns` has the notes."""

    row: Row
    notes: Collection[str] = ()


class Unwanted(Exception):
    """Why a value that could be a row is left out: it says of itself that it is no example."""


class RowMistake(Exception):
    """Why one value is no row, "found; expected; how to fix": a file may have more such values."""


def error_at(path: Path, number: int, what: str, unit: str = "line") -> DataError:
    """The error for a place in a file: its line, or its row where there are no lines."""
    return DataError(f"{path}: {unit} {number}: {what}")


def shorten(text: str) -> str:
    """A text for a message: its first characters, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "…"


def name_of(value: Any) -> str:
    """A value in words, e.g. [] -> "an array"."""
    return _NAMES.get(type(value), f"a {type(value).__name__}")


def keys_of(value: dict[str, Any]) -> str:
    """The keys of an object for a message."""
    return shorten(", ".join(value)) or "none"


def text_of(value: Any, name: str) -> str:
    """A value that has to be text; RowMistake otherwise."""
    if not isinstance(value, str):
        raise RowMistake(f"{name} is {name_of(value)}; expected text; {_way_to_text(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowMistake(
            f"{name} holds half a character (a lone \\ud800-\\udfff escape); expected "
            "whole characters; repair the text or remove the row"
        ) from None
    return value


def _way_to_text(value: Any) -> str:
    if value is None:
        return "fill it in or remove the row"
    is_nested = isinstance(value, dict | list)
    return "write it as text with json.dumps" if is_nested else "put it in double quotes"


def filled_text_of(value: Any, name: str) -> str:
    """A value that has to be text with something in it; RowMistake otherwise."""
    text = text_of(value, name)
    if not text.strip():
        raise RowMistake(f"{name} is empty; expected text; fill it in or remove the row")
    return text


def list_of(value: Any, name: str) -> list[Any]:
    """A value that has to be a list, written as JSON where a table's cell holds it; null is none.

    Raises RowMistake otherwise.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowMistake(
                f"{name} is text that is not JSON ('{shorten(value)}'); expected a list; "
                "write it with json.dumps"
            ) from None
    if not isinstance(value, list):
        raise RowMistake(f"{name} is {name_of(value)}; expected a list; put it in brackets")
    return value
