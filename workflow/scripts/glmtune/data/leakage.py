"""Rows of dev that stand in train, too: a model can know them by heart, which no score shows.

Rows are compared by short hashes, so that only 24 bytes of each stay in memory.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from glmtune.data.rows import Row

HASH_BYTES = 8  # of a million rows, two different ones are equal with a chance of 1 to 4e7
MOST_LINES_NAMED = 5


@dataclass
class Fingerprints:
    """A hash of each row's prompt (its history included), of its response, and of both."""

    pairs: array[int] = field(default_factory=lambda: array("Q"))
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    responses: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, row: Row) -> None:
        """Take the next row."""
        history = json.dumps(row["history"]) if "history" in row else ""
        prompt = _short_hash(f"{history}\0{row['content']}")
        response = _short_hash(row["summary"])
        self.prompts.append(prompt)
        self.responses.append(response)
        self.pairs.append(_short_hash(f"{prompt} {response}"))


@dataclass(frozen=True)
class Leakage:
    """How many rows of dev share what with a row of train."""

    pairs: int
    prompts: int
    responses: int
    # The first pairs: (index in dev, index in train).
    examples: tuple[tuple[int, int], ...] = ()

    def counts(self) -> dict[str, int]:
        """The figures of the card."""
        return {"pairs": self.pairs, "prompts": self.prompts, "answers": self.responses}


def find_leakage(train: Fingerprints, dev: Fingerprints) -> Leakage:
    """Compare two splits."""
    pairs = _indices_in_train(train.pairs, dev.pairs)
    examples = [(index, train.pairs.index(dev.pairs[index])) for index in pairs[:MOST_LINES_NAMED]]
    return Leakage(
        pairs=len(pairs),
        prompts=len(_indices_in_train(train.prompts, dev.prompts)),
        responses=len(_indices_in_train(train.responses, dev.responses)),
        examples=tuple(examples),
    )


def count_repeated(hashes: Sequence[int]) -> int:
    """How many stood there before, e.g. [7, 8, 7, 7] -> 2."""
    return len(hashes) - len(set(hashes))


def _indices_in_train(train: Sequence[int], dev: Sequence[int]) -> list[int]:
    """The indices of dev's hashes that train has."""
    known = set(train)
    return [index for index, value in enumerate(dev) if value in known]


def _short_hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()
    return int.from_bytes(digest, "little")
