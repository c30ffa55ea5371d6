"""Finds dev rows that also appear in train: a model may have memorized them.

Scores do not reveal that. Rows are compared by short hashes, with 24 bytes in memory per row.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from glmtune.data.rows import Row

HASH_BYTES = 8  # a collision among a million rows has a probability of 1 in 4e7
MOST_LINES_NAMED = 5


@dataclass
class Fingerprints:
    """Hashes of each row's prompt (including its history), of its response, and of both."""

    pairs: array[int] = field(default_factory=lambda: array("Q"))
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    responses: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, row: Row) -> None:
        """Add a row."""
        history = json.dumps(row["history"]) if "history" in row else ""
        prompt = _short_hash(f"{history}\0{row['content']}")
        response = _short_hash(row["summary"])
        self.prompts.append(prompt)
        self.responses.append(response)
        self.pairs.append(_short_hash(f"{prompt} {response}"))


@dataclass(frozen=True)
class Leakage:
    """The number of dev rows that share each part with a train row."""

    pairs: int
    prompts: int
    responses: int
    # The first pairs: (index in dev, index in train).
    examples: tuple[tuple[int, int], ...] = ()

    def counts(self) -> dict[str, int]:
        """The counts for the card."""
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
    """Count the repetitions of earlier values, e.g. [7, 8, 7, 7] -> 2."""
    return len(hashes) - len(set(hashes))


def _indices_in_train(train: Sequence[int], dev: Sequence[int]) -> list[int]:
    """The indices of dev's hashes that are also in train."""
    known = set(train)
    return [index for index, value in enumerate(dev) if value in known]


def _short_hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()
    return int.from_bytes(digest, "little")
