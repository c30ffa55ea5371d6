"""The distribution of many numbers, as the five figures that manifests and reports show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def distribution(values: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Minimum, mean, median, 95th percentile and maximum; all None if there are no values.

    Median and percentile are values that occur: at least half, or 95%, do not exceed them.
    Example: [1, 2, 3, 10] -> {"min": 1, "mean": 4.0, "median": 2, "p95": 10, "max": 10}
    """
    if len(values) == 0:
        return dict.fromkeys(("min", "mean", "median", "p95", "max"))
    ordered = np.sort(np.asarray(values))
    at = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    figures = {
        name: np.quantile(ordered, q, method="inverted_cdf").item() for name, q in at.items()
    }
    return figures | {"mean": float(ordered.mean())}
