"""Container formats, detected from a file's first bytes and name, and their readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.data.json_values import json_values
from glmtune.data.rows import error_at
from glmtune.data.tables import csv_values, parquet_values
from glmtune.data.text import check_is_file
from glmtune.files import is_lfs_pointer

Values = Iterator[tuple[int, Any]]

FIRST_BYTES = 64
PARQUET_MARK = b"PAR1"


@dataclass(frozen=True)
class Container:
    """One container format; `read` yields (number, value), with numbers counting `unit`s."""

    title: str
    unit: str
    read: Callable[[Path], Values]


CONTAINERS: dict[str, Container] = {
    "json": Container("JSON Lines, or a JSON array", "line", json_values),
    "csv": Container("CSV with a header", "line", csv_values),
    "parquet": Container("Parquet", "row", parquet_values),
}


def container_of(path: Path) -> Container:
    """Detect the container of a file; DataError if it cannot be a data file."""
    check_is_file(path)
    with path.open("rb") as stream:
        first = stream.read(FIRST_BYTES)
    if is_lfs_pointer(first):
        raise error_at(
            path, 1, "a git-LFS pointer; expected the data itself; run 'git lfs pull' there"
        )
    if first.startswith(PARQUET_MARK) or path.suffix.lower() == ".parquet":
        return CONTAINERS["parquet"]
    begins_as_json = first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    if path.suffix.lower() in (".csv", ".tsv") and not begins_as_json:
        return CONTAINERS["csv"]
    return CONTAINERS["json"]
