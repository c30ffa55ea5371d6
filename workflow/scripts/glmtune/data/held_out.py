"""Holds out a share of rows by prompt: all rows of one prompt are on one side.

A model that was trained on one answer to a prompt is not fairly scored on another. Prompts are
compared in their normal form, with the turns before them. Of each row only a hash is in memory.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from glmtune.data.rows import LeftOut, Piece, Row, Rows, pieces_of, reading_facts
from glmtune.errors import DataError
from glmtune.normal_form import normal_form

HASH_BYTES = 8
TRAIN = "train"


@dataclass(frozen=True)
class Side:
    """The rows of a source whose prompts are on one side."""

    source: Rows
    prompts: Set[int]
    seed: int
    count: int
    # Whether it reports what the source left out: only one side does.
    reports: bool

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Row]:
        return (row for piece in self.pieces() for _, row in piece.rows)

    def pieces(self, left_out: LeftOut | None = None) -> Iterator[Piece]:
        """The pieces of the source with only the rows of this side."""
        for piece in pieces_of(self.source, left_out if self.reports else None):
            rows = (
                (number, row)
                for number, row in piece.rows
                if prompt_hash(row, self.seed) in self.prompts
            )
            yield piece._replace(rows=rows)

    def reading_facts(self) -> dict[str, Any]:
        """What was skipped and changed while reading the source."""
        return reading_facts(self.source) if self.reports else {}


def hold_out(
    sources: Sequence[Rows], shares: Mapping[str, float], seed: int
) -> dict[str, list[Side]]:
    """The sides of each source, for `train` and for each name in `shares`.

    A share is of all rows. Prompts are taken in the order of their seeded hashes until they have
    that many rows, so most prompts stay on their side when a file grows; a prompt with more rows
    than the whole share stays in train. Raises DataError if a side would be empty.
    """
    hashes = [array("Q", (prompt_hash(row, seed) for row in rows)) for rows in sources]
    rows_of = Counter(value for each in hashes for value in each)
    left = set(rows_of)
    prompts: dict[str, Set[int]] = {}
    for name, share in shares.items():
        wanted = max(1, round(share * rows_of.total()))
        prompts[name] = _take(sorted(left), rows_of, wanted)
        left -= prompts[name]
        if not prompts[name] or not left:
            raise DataError(
                f"--{name}-share (params.yaml: dataset.{name}): found {share:g} of "
                f"{rows_of.total()} rows with {len(rows_of)} different prompts; expected a prompt "
                "for each side, with no more rows than the share; change it, or name a file"
            )
    prompts[TRAIN] = left
    return {
        name: [
            Side(rows, chosen, seed, sum(value in chosen for value in values), name == TRAIN)
            for rows, values in zip(sources, hashes, strict=True)
        ]
        for name, chosen in prompts.items()
    }


def _take(prompts: Sequence[int], rows_of: Mapping[int, int], wanted: int) -> set[int]:
    taken, rows = set[int](), 0
    for prompt in prompts:
        if rows >= wanted:
            break
        if rows_of[prompt] <= wanted:
            taken.add(prompt)
            rows += rows_of[prompt]
    return taken


def prompt_hash(row: Row, seed: int) -> int:
    """A seeded hash of a row's prompt in its normal form, with the turns before it."""
    turns = [*(turn["content"] for turn in row.get("history", ())), row["content"]]
    text = "\0".join(map(normal_form, turns)).encode()
    digest = hashlib.blake2b(text, digest_size=HASH_BYTES, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big")
