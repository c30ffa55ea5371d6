"""Batches of tokenized rows: right-padded to the longest row, with similar lengths together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from glmtune.families.tokenized import TokenizedRows
from glmtune.labels import IGNORED_LABEL


class RowDataset(Dataset[dict[str, Any]]):
    """Tokenized rows in the form the Trainer expects."""

    def __init__(self, rows: TokenizedRows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        input_ids, labels = self.rows[index]
        return {"input_ids": input_ids, "labels": labels}


@dataclass(frozen=True)
class Collator:
    """Pads a batch on the right to its longest row, never to a fixed length."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `labels` and `attention_mask`, each (rows, longest)."""
        length = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), length)
        input_ids = torch.full(shape, self.pad_token_id)
        labels = torch.full(shape, IGNORED_LABEL)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        for i, row in enumerate(rows):
            end = len(row["input_ids"])
            input_ids[i, :end] = torch.from_numpy(row["input_ids"].astype(np.int64))
            labels[i, :end] = torch.from_numpy(row["labels"].astype(np.int64))
            attention_mask[i, :end] = 1
        return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}


def grouped_by_length(
    batches: list[dict[str, torch.Tensor]], pad_token_id: int, *, part: int = 0, parts: int = 1
) -> list[dict[str, torch.Tensor]]:
    """Regroup the rows into as many batches of the same sizes, the longest rows first.

    The loss of a step is a mean over all its targets, so it does not matter which rows are padded
    together. Of `parts` processes the one numbered `part` gets its share of each batch, which is at
    least one row: the others wait for it, so without a row of its own it gets one without targets.
    """
    if len(batches) < 2 and parts == 1:
        return batches
    padding = {"input_ids": pad_token_id, "labels": IGNORED_LABEL, "attention_mask": 0}
    rows = [
        {name: batch[name][i, :length] for name in padding}
        for batch in batches
        for i, length in enumerate(batch["attention_mask"].sum(dim=1).tolist())
    ]
    longest_first = iter(sorted(rows, key=lambda row: -len(row["input_ids"])))
    groups = [list(islice(longest_first, len(batch["input_ids"]))) for batch in batches]
    shares = [group[part::parts] or [_without_targets(group[-1])] for group in groups]
    return [
        {
            name: pad_sequence([row[name] for row in group], batch_first=True, padding_value=value)
            for name, value in padding.items()
        }
        for group in shares
    ]


def _without_targets(row: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return row | {"labels": torch.full_like(row["labels"], IGNORED_LABEL)}
