"""Uncertainty of means over rows: bootstrap intervals and tests for multiple comparisons.

Rows are resampled with replacement many times; the interval covers the central means. It reflects
the choice of rows, not the variation between trainings.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np

RESAMPLES = 10_000  # 50 of them lie beyond each end of a 99% interval
CONFIDENCE = 0.99
POWER = 0.8
MIN_ROWS = 20  # the bootstrap is overconfident on fewer
COLUMNS_AT_ONCE = 1000  # bounds memory: 8 bytes per resample and column
_DRAWS_AT_ONCE = 1_000_000  # bounds memory: about 24 bytes per draw

Key = TypeVar("Key")
Values = Sequence[float | None]  # a score of each row; None: the row has none


@dataclass(frozen=True)
class Interval:
    """A mean of `rows` values with its interval and standard error."""

    value: float
    low: float
    high: float
    rows: int
    error: float = 0.0

    @property
    def p_value(self) -> float:
        """The two-sided p-value of the mean by the normal distribution; 1 for too few rows.

        Not from the resamples: their smallest p is too coarse for many comparisons at once.
        """
        if self.rows < MIN_ROWS or self.value == 0:
            return 1.0
        if self.error == 0:
            return 0.0
        return math.erfc(abs(self.value) / self.error / math.sqrt(2))


def bootstrap_means(
    columns: Mapping[Key, Values], *, confidence: float = CONFIDENCE, seed: int = 0
) -> dict[Key, Interval]:
    """The mean of each column with its percentile bootstrap interval; ValueError if it is empty.

    The rows are drawn once for all columns of equal length.
    """
    by_length: dict[int, dict[Key, np.ndarray]] = defaultdict(dict)
    for key, values in columns.items():
        column = np.asarray([v for v in values if v is not None], dtype=np.float64)
        if column.ndim != 1 or not column.size:
            raise ValueError(f"expected a list of numbers, found shape {column.shape}")
        by_length[column.size][key] = column
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    found: dict[Key, Interval] = {}
    for rows, same in by_length.items():
        matrix = np.stack(list(same.values()), axis=1)  # (rows, columns)
        low, high = np.concatenate(
            [
                np.quantile(_resampled_means(part, seed), tails, axis=0, overwrite_input=True)
                for part in _parts(matrix)
            ],
            axis=1,
        )
        errors = matrix.std(axis=0, ddof=1) / math.sqrt(rows) if rows > 1 else np.zeros(len(same))
        ends = zip(matrix.mean(axis=0), low, high, errors, strict=True)
        for key, (value, start, end, error) in zip(same, ends, strict=True):
            found[key] = Interval(float(value), float(start), float(end), rows, float(error))
    return {key: found[key] for key in columns}


def paired_differences(
    runs: Mapping[Key, Values],
    pairs: Iterable[tuple[Key, Key]] | None = None,
) -> dict[tuple[Key, Key], Interval]:
    """Mean of run minus mean of baseline for each pair, by default for all pairs of runs.

    A resample draws the same rows for both runs, so hard rows cancel out. Rows without a value in
    either run are ignored.
    Example: {"lora": …, "full": …, "none": …} -> {("lora", "full"): lora minus full, …}
    """
    chosen = itertools.combinations(runs, 2) if pairs is None else pairs
    columns = {(run, base): _row_differences(runs[run], runs[base]) for run, base in chosen}
    return bootstrap_means(columns)


def adjusted_p_values(intervals: Mapping[Key, Interval], *, untested: int = 0) -> dict[Key, float]:
    """The p-values after Holm's correction; those below 0.01 are significant among all.

    The probability that any difference is wrongly called significant stays below that bound.
    `untested` counts further differences, of which the data chose the tested ones: the correction
    takes their p-values for 1, so the bound holds whichever were chosen.
    Example: 0.01, 0.04 and 0.03 -> 0.03 (three times), 0.06 (the larger before it), 0.06 (twice)
    """
    ascending = sorted(intervals, key=lambda key: intervals[key].p_value)
    adjusted: dict[Key, float] = {}
    largest, count = 0.0, len(ascending) + untested
    for rank, key in enumerate(ascending):
        largest = max(largest, min(1.0, (count - rank) * intervals[key].p_value))
        adjusted[key] = largest
    return {key: adjusted[key] for key in intervals}


def detectable_difference(difference: Interval, *, confidence: float = CONFIDENCE) -> float:
    """The smallest true difference that is found significant with a probability of POWER.

    Example: row differences with deviation 10, 1,070 rows, confidence 99%, power 80% -> 1.05
    """
    law = NormalDist()
    return (law.inv_cdf((1 + confidence) / 2) + law.inv_cdf(POWER)) * difference.error


def _row_differences(values: Values, baseline: Values) -> list[float | None]:
    if len(values) != len(baseline):
        raise ValueError(f"different rows: {len(values)} and {len(baseline)}")
    return [
        None if ours is None or theirs is None else ours - theirs
        for ours, theirs in zip(values, baseline, strict=True)
    ]


def _parts(matrix: np.ndarray) -> list[np.ndarray]:
    """The columns of a matrix, COLUMNS_AT_ONCE in each part."""
    return [
        matrix[:, start : start + COLUMNS_AT_ONCE]
        for start in range(0, matrix.shape[1], COLUMNS_AT_ONCE)
    ]


def _resampled_means(matrix: np.ndarray, seed: int) -> np.ndarray:
    """RESAMPLES means of rows drawn with replacement, shape (RESAMPLES, columns)."""
    return np.concatenate(
        [counts @ matrix for counts in _bootstrap_draws(len(matrix), seed)]
    ) / len(matrix)


def _bootstrap_draws(rows: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is drawn in each resample, batch by batch, shape (batch, rows)."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // rows)
    for start in range(0, RESAMPLES, at_once):
        batch = min(at_once, RESAMPLES - start)
        drawn = generator.integers(rows, size=(batch, rows), dtype=np.int32)
        # Each resample counts in its own range.
        drawn = drawn + np.arange(batch)[:, None] * rows
        counts = np.bincount(drawn.ravel(), minlength=batch * rows)
        yield counts.reshape(batch, rows).astype(np.float64)
