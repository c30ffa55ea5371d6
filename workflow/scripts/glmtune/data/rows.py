"""Rows of a data set, the mistakes that invalidate them, and wording for messages.

row  {"content": last question, "summary": its answer}, and where needed
     "history": the messages before the question (as in `glmtune.families.conversation`)
     "role": the role that says `content`, unless it is the user: with tools, the last answer may
         follow an observation
     "metadata": the name of the tool, if the answer is a tool call
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol, runtime_checkable

from glmtune.errors import DataError

Row = dict[str, Any]
# Called with the number of each row left out, and the reason.
LeftOut = Callable[[int, str], None]

LONGEST_QUOTE = 40
# The flags of fetch_dataset.py that messages name, with the keys of params.yaml that set them.
COLUMN_FLAGS = (
    "--prompt-column and --response-column (params.yaml: dataset.prompt_column and response_column)"
)
FORMAT_FLAG = "--format (params.yaml: dataset.format)"
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
    """Rows of known number that can be iterated repeatedly: a list or a user's file."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Row]: ...


class Piece(NamedTuple):
    """Consecutive rows of one source, each with its number there."""

    name: str  # of the file, for messages; the project's own rows have none
    unit: str  # of the numbers: line or row
    rows: Iterable[tuple[int, Row]]


@runtime_checkable
class FromFiles(Protocol):
    """Rows that know their place in files: a file's, some of these, or those of several files."""

    def pieces(self, left_out: LeftOut | None = None) -> Iterator[Piece]:
        """The rows by file; `left_out` is as for `pieces_of`."""
        ...

    def reading_facts(self) -> dict[str, Any]:
        """What was skipped and changed while reading."""
        ...


def pieces_of(rows: Rows, left_out: LeftOut | None = None) -> Iterator[Piece]:
    """The pieces of any rows.

    `left_out` is called while a piece is read, for each row of its source that is left out.
    """
    if isinstance(rows, FromFiles):
        return rows.pieces(left_out)
    return iter([Piece("", "line", enumerate(rows, start=1))])


def reading_facts(rows: Rows) -> dict[str, Any]:
    """What was skipped and changed while reading rows from a file, for the manifest."""
    return rows.reading_facts() if isinstance(rows, FromFiles) else {}


def sample(rows: int, most: int | None, seed: str) -> Set[int] | None:
    """The indices of at most `most` of the rows, drawn by a seed; None: all of them."""
    if most is None or most >= rows:
        return None
    return set(Random(seed).sample(range(rows), most))


@dataclass(frozen=True)
class ReadRow:
    """A row, with notes on changes to its messages (see `glmtune.data.turns`)."""

    row: Row
    notes: Collection[str] = ()


class Unwanted(Exception):
    """Why a valid row is left out: it is marked as not being an example."""


class RowMistake(Exception):
    """Why one value is not a valid row, "found; expected; fix"; a file may have several."""


def error_at(path: Path, number: int, what: str, unit: str = "line") -> DataError:
    """The error for a place in a file: its line, or its row if there are no lines."""
    return DataError(f"{path}: {unit} {number}: {what}")


def shorten(text: str) -> str:
    """Shorten text for a message to its first characters, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "…"


def name_of(value: Any) -> str:
    """The type of a value in words, e.g. [] -> "an array"."""
    return _NAMES.get(type(value), f"a {type(value).__name__}")


def keys_of(value: dict[str, Any]) -> str:
    """The keys of an object, for a message."""
    return shorten(", ".join(value)) or "none"


def text_of(value: Any, name: str) -> str:
    """Return a value that must be text; RowMistake otherwise."""
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
    """Return a value that must be non-blank text; RowMistake otherwise."""
    text = text_of(value, name)
    if not text.strip():
        raise RowMistake(f"{name} is empty; expected text; fill it in or remove the row")
    return text


def list_of(value: Any, name: str) -> list[Any]:
    """Return a value that must be a list, or JSON text of one in a table cell; null is [].

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
