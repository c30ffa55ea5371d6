"""Tokenized rows on disk: one safetensors file per split, written row by row and memory-mapped.

offsets    (rows + 1,) int64   row i is input_ids[offsets[i]:offsets[i + 1]]
input_ids  (tokens,)   int32   the concatenated rows
labels     (tokens,)   int32   the same, with -100 for tokens excluded from the loss

Writing and reading keep only a few rows in memory. Imports no torch.
"""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glmtune.errors import DataError
from glmtune.families.family import Example
from glmtune.files import atomic_path
from glmtune.labels import IGNORED_LABEL

# In file order: the widest first, so that every column is aligned.
COLUMNS: dict[str, np.dtype[Any]] = {
    "offsets": np.dtype("<i8"),
    "input_ids": np.dtype("<i4"),
    "labels": np.dtype("<i4"),
}


@dataclass(frozen=True)
class TokenizedRows:
    """Concatenated rows; `rows[i]` is (input_ids, labels), int32 arrays of equal length."""

    input_ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = slice(self.offsets[index], self.offsets[index + 1])
        return self.input_ids[row], self.labels[row]

    def targets_of_rows(self) -> np.ndarray:
        """The number of target tokens in each row: (rows,)."""
        so_far = np.concatenate(([0], np.cumsum(self.labels != IGNORED_LABEL)))
        return np.diff(so_far[self.offsets])


def from_examples(examples: Iterable[Example]) -> TokenizedRows:
    """Convert examples to flat arrays."""
    pairs = [(np.array(e.input_ids, np.int32), np.array(e.labels, np.int32)) for e in examples]
    offsets = np.cumsum([0, *(len(ids) for ids, _ in pairs)], dtype=np.int64)
    empty = np.zeros(0, np.int32)
    return TokenizedRows(
        input_ids=np.concatenate([ids for ids, _ in pairs] or [empty]),
        labels=np.concatenate([labels for _, labels in pairs] or [empty]),
        offsets=offsets,
    )


@contextmanager
def tokenized_file(path: Path) -> Iterator[Callable[[TokenizedRows], None]]:
    """Yield a function that appends rows to a file, which appears only once complete."""
    with atomic_path(path) as temporary:
        parts = {name: temporary.with_suffix(f".{name}") for name in COLUMNS}
        with ExitStack() as stack:
            out = {name: stack.enter_context(part.open("wb")) for name, part in parts.items()}
            end = 0
            out["offsets"].write(_as_bytes("offsets", np.zeros(1)))

            def append(rows: TokenizedRows) -> None:
                nonlocal end
                out["offsets"].write(_as_bytes("offsets", rows.offsets[1:] + end))
                out["input_ids"].write(_as_bytes("input_ids", rows.input_ids))
                out["labels"].write(_as_bytes("labels", rows.labels))
                end += int(rows.offsets[-1])

            yield append
        _concatenate(parts, temporary)


def read_tokenized(path: Path) -> TokenizedRows:
    """Memory-map a split written by `tokenized_file`: rows are read on demand."""
    if not path.is_file():
        raise DataError(
            f"{path}: no such file although its manifest exists; "
            f"`snakemake --forcerun tokenize_dataset` writes it again"
        )
    try:
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        columns = {name: _map_column(content, start, name, header[name]) for name in COLUMNS}
    except (ValueError, KeyError):
        raise DataError(
            f"{path}: not a complete file of tokenized rows; "
            f"`snakemake --forcerun tokenize_dataset` writes it again"
        ) from None
    return TokenizedRows(**columns)


def _as_bytes(name: str, values: np.ndarray) -> bytes:
    return values.astype(COLUMNS[name]).tobytes()


def _map_column(content: mmap.mmap, start: int, name: str, entry: dict[str, Any]) -> np.ndarray:
    (count,) = entry["shape"]
    if count == 0:
        return np.zeros(0, COLUMNS[name])
    return np.frombuffer(content, COLUMNS[name], count, start + entry["data_offsets"][0])


def _concatenate(parts: dict[str, Path], target: Path) -> None:
    """Join the columns in the safetensors layout: header size, header, columns."""
    header, end = {}, 0
    for name, part in parts.items():
        size, kind = part.stat().st_size, COLUMNS[name]
        header[name] = {
            "dtype": f"I{8 * kind.itemsize}",
            "shape": [size // kind.itemsize],
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for part in parts.values():
            with part.open("rb") as column:
                shutil.copyfileobj(column, out)
