"""Whether tuning changed the share of correct answers to the general questions."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glmtune.metrics.significance import (
    CONFIDENCE,
    MIN_ROWS,
    Interval,
    adjusted_p_values,
    bootstrap_means,
    paired_differences,
)

Key = tuple[str, str]  # model and method


@dataclass(frozen=True)
class ProbeDifferences:
    """The correct answers of each entry, compared with those of its untuned model."""

    correct: Mapping[Key, Sequence[float | None]]  # for each question, 0 to 100
    pairs: Sequence[tuple[Key, Key]]  # a tuned entry and its untuned model

    @functools.cached_property
    def differences(self) -> dict[Key, Interval]:
        """Tuned minus untuned, in percentage points, by tuned entry."""
        found = paired_differences(self.correct, self.pairs)
        return {ours: each for (ours, _), each in found.items()}

    @functools.cached_property
    def shares(self) -> dict[Key, Interval]:
        """The share of correct answers, by entry."""
        return bootstrap_means(self.correct)

    @functools.cached_property
    def _adjusted(self) -> dict[Key, float]:
        """The p-values of the differences after Holm's correction."""
        return adjusted_p_values(self.differences)

    @property
    def has_enough_questions(self) -> bool:
        """Whether there are enough questions to test anything."""
        return all(len(answers) >= MIN_ROWS for answers in self.correct.values())

    def is_significant(self, key: Key) -> bool:
        """Whether an entry's share of correct answers differs significantly from untuned."""
        return self._adjusted.get(key, 1.0) < 1 - CONFIDENCE

    def loss(self, key: Key) -> float:
        """The percentage points that an entry lost significantly; 0 if it did not."""
        return max(0.0, -self.differences[key].value) if self.is_significant(key) else 0.0
