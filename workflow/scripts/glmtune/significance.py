"""How far a mean over rows can be trusted: bootstrap intervals.

The rows are drawn again, with replacement, many times; the interval holds the middle of the means.
It says what other rows of the same kind would change, not what training again would change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000  # 50 of them lie beyond each end of a 99 % interval
CONFIDENCE = 0.99
MIN_ROWS = 20  # the bootstrap is too sure of itself on fewer
_DRAWS_AT_ONCE = 4_000_000  # bounds memory: 4 bytes an index, 8 a value


@dataclass(frozen=True)
class Interval:
    """A mean of `rows` values with the ends of its interval."""

    value: float
    low: float
    high: float
    rows: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the value differs from zero beyond chance; never said of fewer than MIN_ROWS."""
        return self.rows >= MIN_ROWS and (self.low > 0 or self.high < 0)


def bootstrap_mean(
    values: Sequence[float], *, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """The mean of `values` with its percentile bootstrap interval; ValueError if there are none."""
    column = np.asarray(values, dtype=np.float64)  # (rows,)
    if column.ndim != 1 or not column.size:
        raise ValueError(f"expected a list of numbers, found shape {column.shape}")
    tail = (1 - confidence) / 2
    low, high = np.quantile(_resampled_means(column, seed), [tail, 1 - tail])
    return Interval(float(column.mean()), float(low), float(high), column.size)


def paired_difference(
    values: Sequence[float],
    baseline: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Mean of `values` minus mean of `baseline`, two runs on the same rows in the same order.

    A resample draws rows, not values: both runs keep the same rows, so hard rows cancel.
    """
    if len(values) != len(baseline):
        raise ValueError(f"not the same rows: {len(values)} against {len(baseline)}")
    difference = np.asarray(values, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    return bootstrap_mean(difference.tolist(), confidence=confidence, seed=seed)


def _resampled_means(column: np.ndarray, seed: int) -> np.ndarray:
    """RESAMPLES means of rows drawn with replacement, shape (RESAMPLES,)."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // column.size)
    means = []
    for start in range(0, RESAMPLES, at_once):
        shape = (min(at_once, RESAMPLES - start), column.size)
        means.append(column[generator.integers(column.size, size=shape, dtype=np.int32)].mean(1))
    return np.concatenate(means)
