"""Rows of several parts: the user's own in full, others by the share they are to have.

Shares are of the mixed whole, and own rows are never displaced: 900 of them and a share of 0.1
make 1,000. A part with fewer rows than its share asks for is read again from the start, so that
all its rows are there about equally often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

from glmtune.data.rows import LeftOut, Piece, Row, Rows, pieces_of, reading_facts, sample

# One reading of a part: the indices of the rows to keep, or None for all.
Reading = Set[int] | None


@dataclass(frozen=True)
class Part:
    """One source of rows."""

    rows: Rows
    # Of all rows, from 0 to below 1; None: an own part, of which every row is used.
    share: float | None = None
    # What it is, for the manifest: depends on the content only.
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Mixture:
    """The rows of several parts, own ones first; the shares add up to less than 1."""

    parts: Sequence[Part]
    seed: int = 0
    # The maximum number of rows in all; None: as many as own rows and shares make.
    most: int | None = None

    def __len__(self) -> int:
        return sum(part["rows"] for part in self.describe())

    def __iter__(self) -> Iterator[Row]:
        return (row for piece in self.pieces() for _, row in piece.rows)

    def pieces(self, left_out: LeftOut | None = None) -> Iterator[Piece]:
        """The rows of each part, from its start each time that it is read."""
        for part, readings in self._readings:
            for number, kept in enumerate(readings):
                # What is unusable is the same each time, and is reported once.
                pieces = pieces_of(part.rows, None if number else left_out)
                yield from pieces if kept is None else _only(pieces, kept)

    def describe(self) -> list[dict[str, Any]]:
        """What each part is, how many rows it has and how many it gives, for the manifest."""
        return [
            {
                **part.about,
                **({} if part.share is None else {"share": part.share}),
                "rows": sum(len(part.rows) if kept is None else len(kept) for kept in readings),
                "chosen_from": {"rows": len(part.rows), "seed": self.seed},
                **reading_facts(part.rows),
            }
            for part, readings in self._readings
        ]

    def reading_facts(self) -> dict[str, Any]:
        """Nothing: the parts say it."""
        return {}

    @cached_property
    def _readings(self) -> list[tuple[Part, list[Reading]]]:
        """Each part in order, with how it is read."""
        own = [part for part in self.parts if part.share is None]
        others = [(part, part.share) for part in self.parts if part.share is not None]
        own_rows = sum(len(part.rows) for part in own)
        total = round(own_rows / (1 - sum(share for _, share in others)))
        total = min(total, self.most or total)
        drawn = [round(total * share) for _, share in others]
        kept = sample(own_rows, max(1, total - sum(drawn)), f"train {self.seed}")
        readings: list[tuple[Part, list[Reading]]] = []
        start = 0
        for part in own:
            end = start + len(part.rows)
            here = None if kept is None else {i - start for i in kept if start <= i < end}
            readings.append((part, [here]))
            start = end
        for place, ((part, _), wanted) in enumerate(zip(others, drawn, strict=True)):
            times, rest = divmod(wanted, len(part.rows))
            last = [sample(len(part.rows), rest, f"part {place} {self.seed}")] if rest else []
            readings.append((part, [*[None] * times, *last]))
        return readings


def _only(pieces: Iterator[Piece], kept: Set[int]) -> Iterator[Piece]:
    """Pieces with only some of their rows; indices count through all pieces."""
    indices = count()
    for piece in pieces:
        yield piece._replace(rows=(row for row in piece.rows if next(indices) in kept))
