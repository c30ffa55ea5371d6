"""Bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest

from glmtune import significance
from glmtune.significance import MIN_ROWS, Interval, bootstrap_mean, paired_difference

VALUES = np.random.default_rng(1).normal(10, 3, size=400).tolist()


def test_the_interval_is_that_of_the_normal_law() -> None:
    interval = bootstrap_mean(VALUES, confidence=0.95)
    error = np.std(VALUES) / np.sqrt(len(VALUES))
    assert interval.value == pytest.approx(np.mean(VALUES))
    assert interval.low == pytest.approx(interval.value - 1.96 * error, abs=0.05 * error)
    assert interval.high == pytest.approx(interval.value + 1.96 * error, abs=0.05 * error)
    assert interval.rows == 400


def test_more_confidence_means_a_wider_interval() -> None:
    narrow, wide = (bootstrap_mean(VALUES, confidence=level) for level in (0.9, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_same_seed_gives_the_same_interval() -> None:
    assert bootstrap_mean(VALUES, seed=3) == bootstrap_mean(VALUES, seed=3)
    assert bootstrap_mean(VALUES, seed=3) != bootstrap_mean(VALUES, seed=4)


def test_the_interval_does_not_depend_on_how_draws_are_batched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = bootstrap_mean(VALUES)
    monkeypatch.setattr(significance, "_DRAWS_AT_ONCE", 777 * len(VALUES))
    assert bootstrap_mean(VALUES) == whole


def test_pairing_finds_a_small_gain_that_every_row_shares() -> None:
    better = [value + 0.1 for value in VALUES]
    difference = paired_difference(better, VALUES)
    assert difference.value == pytest.approx(0.1)
    assert (difference.low, difference.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert difference.excludes_zero


def test_equal_runs_do_not_differ() -> None:
    assert paired_difference(VALUES, VALUES) == Interval(0.0, 0.0, 0.0, 400)
    assert not paired_difference(VALUES, VALUES).excludes_zero


def test_noise_is_not_called_a_difference() -> None:
    noise = np.random.default_rng(2).normal(0, 1, size=400)
    noise -= noise.mean()
    difference = paired_difference((np.asarray(VALUES) + noise).tolist(), VALUES)
    assert difference.low < 0 < difference.high
    assert not difference.excludes_zero


def test_a_loss_is_as_real_as_a_gain() -> None:
    assert paired_difference([0.0] * MIN_ROWS, [1.0] * MIN_ROWS).excludes_zero


def test_few_rows_never_prove_a_difference() -> None:
    assert not paired_difference([1.0] * (MIN_ROWS - 1), [0.0] * (MIN_ROWS - 1)).excludes_zero


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(5).normal(0, 1, size=(100, 100))
    intervals = [bootstrap_mean(draw.tolist(), confidence=0.9) for draw in draws]
    assert 82 <= sum(interval.low <= 0 <= interval.high for interval in intervals) <= 97


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]]])
def test_nothing_to_resample_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected a list of numbers"):
        bootstrap_mean(values)


def test_runs_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same rows: 2 against 3"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])
