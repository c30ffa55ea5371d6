"""Detects the format of a file's rows and where a wrapper holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glmtune.data.formats import FORMATS, ColumnMap, Columns
from glmtune.data.rows import (
    COLUMN_FLAGS,
    FORMAT_FLAG,
    ReadRow,
    RowMistake,
    keys_of,
    name_of,
    shorten,
)


@dataclass(frozen=True)
class Shape:
    """The format and columns of one file's rows."""

    format: str
    columns: ColumnMap

    def read(self, value: Any) -> ReadRow:
        """Convert a value to a row; RowMistake if it is invalid or has another format."""
        try:
            return FORMATS[self.format].read(value, self.columns)
        except RowMistake:
            if FORMATS[self.format].find(value, Columns()):
                raise
            others = [shape.format for shape in shapes_of(value, Columns(), None)]
            if not others or self.format in others:
                raise
            raise RowMistake(
                f"a row of format {others[0]}, after rows of format {self.format}; expected one "
                "format per file; move these rows to a separate file"
            ) from None


def shapes_of(value: Any, named: Columns, data_format: str | None) -> list[Shape]:
    """Every way to read a value as a row of the given format, or of any."""
    names = [data_format] if data_format else list(FORMATS)
    return [Shape(name, columns) for name in names for columns in FORMATS[name].find(value, named)]


def choose(value: Any, named: Columns, data_format: str | None) -> Shape:
    """The only way to read a value; RowMistake if there is none or several."""
    if isinstance(value, dict) and _is_by_columns(value):
        raise RowMistake(
            "a table stored by columns (pandas' to_json without orient); expected one object "
            "per row; save it with to_json(path, orient='records', lines=True, force_ascii=False)"
        )
    shapes = shapes_of(value, named, data_format)
    if len(shapes) == 1:
        return shapes[0]
    if not shapes:
        raise RowMistake(_why_unrecognized(value, named, data_format))
    ways = "; ".join(
        f"{shape.format} ({', '.join(list(shape.columns.values())[:2])})" for shape in shapes
    )
    raise RowMistake(
        f"several ways to read the row: {ways}; expected one; choose with {FORMAT_FLAG}, or "
        f"with {COLUMN_FLAGS}"
    )


def _why_unrecognized(value: Any, named: Columns, data_format: str | None) -> str:
    names = [data_format] if data_format else list(FORMATS)
    examples = ", ".join(f"{name} {FORMATS[name].example}" for name in names)
    if isinstance(value, dict):
        missing = [c for c in (named.prompt, named.response) if c and c not in value]
        if missing:
            return (
                f"no '{missing[0]}' (keys found: {keys_of(value)}); expected the columns you "
                f"named; correct {COLUMN_FLAGS}"
            )
        if {"role", "content"} <= value.keys():
            return (
                "a single message; expected one conversation per row; put the messages of each "
                "conversation in a separate array: [[{role, content}, …], …]"
            )
        found = f"not a row of a known format (keys found: {keys_of(value)})"
    else:
        found = f"{name_of(value)} instead of a row"
    return (
        f"{found}; expected {examples}; name your columns with {COLUMN_FLAGS}, or "
        "write the rows in one of these formats"
    )


def _is_by_columns(value: dict[str, Any]) -> bool:
    """Whether an object is a pandas table: {column: {index: cell}} or orient="split"."""
    columns = list(value.values())
    if {"columns", "data"} <= value.keys() <= {"columns", "index", "data"}:
        return True
    return len(columns) > 1 and all(
        isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns
    )


def wrapper_key(value: Any, named: Columns, data_format: str | None) -> str | None:
    """The key under which a wrapper holds rows; None if the object is a row or has none.

    Raises RowMistake if there are several. Example: {"data": [{"content": …, "summary": …}]}
    """
    if not isinstance(value, dict) or shapes_of(value, named, data_format):
        return None
    keys = [
        key
        for key, items in value.items()
        if isinstance(items, list) and items and shapes_of(items[0], named, data_format)
    ]
    if len(keys) > 1:
        raise RowMistake(
            f"several lists of rows ({shorten(', '.join(keys))}); expected one per file; save each "
            "as a separate file"
        )
    return keys[0] if keys else None
