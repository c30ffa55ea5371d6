"""Strict reading of users' files: each is fully checked first, then its rows are read on demand.

Supports the containers of `glmtune.data.containers` and the row formats of `glmtune.data.formats`.
Texts are never changed. A mistake raises a DataError in one sentence, *file: line: found; expected;
fix*, or its row is skipped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from glmtune.data.containers import CONTAINERS, Values, container_of
from glmtune.data.formats import FORMATS, ColumnMap, Columns
from glmtune.data.json_values import LongValue, outline, values_below
from glmtune.data.recognising import Shape, choose, wrapper_key
from glmtune.data.rows import LeftOut, Piece, ReadRow, Row, RowMistake, Unwanted, error_at
from glmtune.data.unwanted import refuse_unwanted
from glmtune.errors import DataError, ParamsError
from glmtune.families.conversation import NO_TOOLS, uses_tools

MOST_LINES_NAMED = 5


@dataclass(frozen=True)
class ReadOptions:
    """The user's options for reading a file."""

    columns: Columns = field(default_factory=Columns)
    # A key of FORMATS; None: detected from the first usable row.
    data_format: str | None = None
    # Whether to skip rows with mistakes instead of raising an error.
    skip_bad_rows: bool = False
    # Whether rows with tools are usable; only ChatGLM3 and GLM-4 support them.
    takes_tools: bool = True
    # train or dev: rows marked as belonging to the other split are left out.
    split: str | None = None

    def __post_init__(self) -> None:
        if self.data_format is not None and self.data_format not in FORMATS:
            raise ParamsError(
                f"unknown data format {self.data_format!r}; choose from {', '.join(FORMATS)}"
            )
        if self.columns.are_named and self.data_format not in (None, "adgen"):
            raise ParamsError(
                f"columns are named for format {self.data_format}; expected column names only for "
                "adgen, as its prompt and response; remove the format or the columns"
            )

    @property
    def wanted_format(self) -> str | None:
        """The format that rows must have; naming columns implies `adgen`."""
        return "adgen" if self.columns.are_named else self.data_format


@dataclass
class Mistakes:
    """The mistakes in a file's rows: their number, and the first of them."""

    rows: int = 0
    # (row, line)
    places: list[tuple[int, int]] = field(default_factory=list)
    first: str = ""

    def add(self, row: int, line: int, what: str) -> None:
        """Record a mistake."""
        self.first = self.first or what
        self.rows += 1
        if len(self.places) <= MOST_LINES_NAMED:
            self.places.append((row, line))

    def numbers(self, unit: str) -> list[int]:
        """The row or line numbers of the first mistakes."""
        return [_row_or_line(unit, row, line) for row, line in self.places]

    def others(self, unit: str) -> str:
        """Mention all mistakes but the first; `unit` is line or row."""
        if self.rows < 2:
            return ""
        more = ", …" if self.rows > len(self.places) else ""
        numbers = ", ".join(map(str, self.numbers(unit)[1:]))
        return f" (and {self.rows - 1} more unusable rows: {unit} {numbers}{more})"


@dataclass(frozen=True)
class UserFile:
    """A checked file; each iteration reads it again."""

    path: Path
    # The unit of row numbers: line, or row if several begin on one line.
    unit: str
    rows: int
    shape: Shape
    # The columns that occur in any row, by the part of the row they hold.
    columns: ColumnMap
    skipped: Mistakes
    # Changes to rows or reasons for leaving them out -> number of rows.
    notes: Mapping[str, int]
    options: ReadOptions

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Row]:
        return (row for _, row in self.numbered())

    def pieces(self, left_out: LeftOut | None = None) -> Iterator[Piece]:
        """Its rows as one piece."""
        yield Piece(str(self.path), self.unit, self.numbered(left_out))

    def numbered(self, left_out: LeftOut | None = None) -> Iterator[tuple[int, Row]]:
        """Yield (number, row) for every usable row; `left_out` is called for every other one."""
        for place, (line, value) in enumerate(_read_values(self.path, self.options), start=1):
            number = _row_or_line(self.unit, place, line)
            try:
                row = _read_row(self.shape, value, self.options).row
            except (RowMistake, Unwanted) as reason:
                if isinstance(reason, RowMistake) and not self.options.skip_bad_rows:
                    # The check of the file did not find this mistake.
                    raise DataError(f"{self.path}: changed while being read; try again") from None
                if left_out:
                    left_out(number, str(reason))
            else:
                yield number, row

    def reading_facts(self) -> dict[str, Any]:
        """What was skipped and changed while reading, for the manifest."""
        facts: dict[str, Any] = {}
        if self.skipped.rows:
            first = self.skipped.numbers(self.unit)[:MOST_LINES_NAMED]
            facts["skipped"] = {"rows": self.skipped.rows, "unit": self.unit, "first": first}
        if self.notes:
            facts["notes"] = dict(self.notes)
        return facts


def check_file(path: Path | str, options: ReadOptions | None = None) -> UserFile:
    """Check a whole file; DataError unless every row is usable (with `skip_bad_rows`: any row)."""
    path, options = Path(path), options or ReadOptions()
    unit, last_line = container_of(path).unit, 0
    shape, keys, rows, mistakes, notes = None, set[str](), 0, Mistakes(), Counter[str]()
    for row, (line, value) in enumerate(_read_values(path, options), start=1):
        unit, last_line = "row" if line == last_line else unit, line
        try:
            shape = shape or _choose_shape(value, options)
            notes.update(_read_row(shape, value, options).notes)
        except RowMistake as mistake:
            mistakes.add(row, line, str(mistake))
        except Unwanted as reason:
            notes[str(reason)] += 1
        else:
            rows += 1
            keys.update(value if isinstance(value, dict) else ())
    if mistakes.rows and not (options.skip_bad_rows and rows):
        what = mistakes.first + mistakes.others(unit)
        raise error_at(path, mistakes.numbers(unit)[0], what, unit)
    if shape is None or not rows:
        left_out = "".join(f"; {count} rows: {note}" for note, count in notes.items())
        raise DataError(
            f"{path}: no rows{left_out}; expected at least one; check that the file was saved"
        )
    _require_history(path, keys, options.columns)
    columns = {part: name for part, name in shape.columns.items() if name in keys}
    return UserFile(path, unit, rows, shape, columns, mistakes, notes, options)


def _choose_shape(value: Any, options: ReadOptions) -> Shape:
    if isinstance(value, RowMistake):
        raise value
    refuse_unwanted(value, options.split)
    return choose(value, options.columns, options.wanted_format)


def _read_row(shape: Shape, value: Any, options: ReadOptions) -> ReadRow:
    if isinstance(value, RowMistake):
        raise value
    refuse_unwanted(value, options.split)
    read = shape.read(value)
    if not options.takes_tools and uses_tools(read.row):
        raise RowMistake(NO_TOOLS)
    return read


def _read_values(path: Path, options: ReadOptions) -> Values:
    """The values of a file or, if its only value is a wrapper, of that wrapper."""
    container = container_of(path)
    values = container.read(path)
    if container is not CONTAINERS["json"]:
        return values
    first = list(islice(values, 1))
    is_long = bool(first) and isinstance(first[0][1], LongValue)
    first += [] if is_long else islice(values, 1)
    if len(first) == 1:
        line, value = first[0]
        try:
            around = outline(path) if is_long else value
            key = wrapper_key(around, options.columns, options.wanted_format)
        except LongValue:
            key = None  # not a wrapper, but a row that is too long
        except RowMistake as mistake:
            return iter([(line, mistake)])
        if key is not None:
            return values_below(path, key)
    return chain(first, values)


def _row_or_line(unit: str, row: int, line: int) -> int:
    return row if unit == "row" else line


def _require_history(path: Path, keys: set[str], named: Columns) -> None:
    if named.history and named.history not in keys:
        raise DataError(
            f"{path}: no row has '{named.history}' (keys found: {', '.join(sorted(keys))}); "
            "expected the history there; correct --history-column (params.yaml: "
            "dataset.history_column) or leave it out"
        )
