"""Tokenised rows on disk: flat arrays in one safetensors file a split, read without torch.

input_ids  (tokens,)   int32   the rows one after another
labels     (tokens,)   int32   the same, -100 where the model is not trained
offsets    (rows + 1,) int64   row i is input_ids[offsets[i]:offsets[i + 1]]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from glmtune.errors import DataError
from glmtune.families.family import Example
from glmtune.files import atomic_path


@dataclass(frozen=True)
class TokenizedRows:
    """The rows of one split; `rows[i]` is (input_ids, labels), two int32 arrays of equal length."""

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


def from_examples(examples: Iterable[Example]) -> TokenizedRows:
    """Lay examples out as flat arrays."""
    pairs = [(np.array(e.input_ids, np.int32), np.array(e.labels, np.int32)) for e in examples]
    offsets = np.cumsum([0, *(len(ids) for ids, _ in pairs)], dtype=np.int64)
    empty = np.zeros(0, np.int32)
    return TokenizedRows(
        input_ids=np.concatenate([ids for ids, _ in pairs] or [empty]),
        labels=np.concatenate([labels for _, labels in pairs] or [empty]),
        offsets=offsets,
    )


def write_tokenized(path: Path, rows: TokenizedRows) -> None:
    """Write a split, whole or not at all."""
    arrays = {"input_ids": rows.input_ids, "labels": rows.labels, "offsets": rows.offsets}
    with atomic_path(path) as temporary:
        save_file(arrays, temporary)


def read_tokenized(path: Path) -> TokenizedRows:
    """Read a split written by `write_tokenized`."""
    if not path.is_file():
        raise DataError(
            f"{path}: no such file although its manifest is there; "
            f"`snakemake --forcerun tokenize_dataset` writes it again"
        )
    return TokenizedRows(**load_file(path))
