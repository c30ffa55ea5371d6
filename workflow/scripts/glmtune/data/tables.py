"""Tables: CSV with a header, and Parquet. Each row is an object keyed by column."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glmtune.data.rows import RowMistake, error_at, shorten
from glmtune.data.text import open_text, refuse_zero_bytes
from glmtune.errors import DataError, ResourceError

DELIMITERS = (",", ";", "\t")
# The csv module's default of 131,072 characters is too small for a conversation in one cell.
LONGEST_CELL = 1 << 27
# Few: a text shared by many rows is stored only once, but takes its full length for each row.
PARQUET_ROWS_AT_A_TIME = 16
# A column may unpack to this many bytes, or times its size; text compresses to about a fifth.
PARQUET_BYTES, PARQUET_RATIO = 1 << 26, 1000


def csv_values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, {column: cell}); a RowMistake for a row with more or fewer cells than columns.

    The delimiter is taken from the header: comma, semicolon or tab.
    """
    csv.field_size_limit(LONGEST_CELL)
    # newline="": line breaks inside cells stay as they are.
    with open_text(path, newline="") as stream:
        lines = _text_lines(path, stream)
        first = next(lines, "")
        delimiter = max(DELIMITERS, key=first.count)
        reader = csv.reader(_with_first(first, lines), delimiter=delimiter, strict=True)
        columns: list[str] = []
        for line, cells in _read_cells(path, reader):
            if not columns:
                columns = _checked_header(path, line, cells)
            elif len(cells) == len(columns):
                yield line, dict(zip(columns, cells, strict=True))
            else:
                yield (
                    line,
                    RowMistake(
                        f"{len(cells)} cells; expected {len(columns)}, one for each column "
                        f"({shorten(', '.join(columns))}); put cells that contain {delimiter!r} or "
                        "a line break in double quotes"
                    ),
                )


def _text_lines(path: Path, stream: Iterator[str]) -> Iterator[str]:
    for line in stream:
        refuse_zero_bytes(path, line)
        yield line


def _with_first(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _read_cells(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of every row that is not blank."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise error_at(
                path,
                line,
                f"not CSV ({error}); expected cells in double quotes to be closed, and quotes in "
                'them doubled (""); look for a lone quote, or a cut-off file',
            ) from None
        if cells is None:
            return
        if cells:
            yield line, cells


def _checked_header(path: Path, line: int, names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise error_at(
            path,
            line,
            f"duplicate column name ({shorten(', '.join(names))}); expected a header with unique "
            "names; rename one",
        )
    return names


def parquet_values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (row number, {column: value}), a few at a time; requires pyarrow."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ResourceError(
            f"{path}: a Parquet file, but pyarrow is not installed; expected it for Parquet files; "
            "pip install 'glmtune[parquet]', or save the file as JSON Lines"
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _refuse_expanding(path, file.metadata)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS_AT_A_TIME):
                for value in batch.to_pylist():
                    number += 1
                    yield number, value
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}: row {number + 1}: not readable as Parquet ({shorten(str(error))}); expected "
            "a complete Parquet file; fetch or save it again"
        ) from None


def _refuse_expanding(path: Path, metadata: Any) -> None:
    """Raise DataError if the file, by its metadata, unpacks to far more than its size."""
    size = path.stat().st_size
    if metadata.num_rows > size:
        raise DataError(
            f"{path}: {metadata.num_rows:,} rows in {size:,} bytes; expected distinct rows; "
            "remove the repeated rows"
        )
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
            if unpacked > max(PARQUET_BYTES, PARQUET_RATIO * packed):
                raise DataError(
                    f"{path}: column '{shorten(column.path_in_schema)}' unpacks from {packed:,} to "
                    f"{unpacked:,} bytes; expected normal text; remove the column or its huge text"
                )
