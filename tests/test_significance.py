"""Bootstrap intervals."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from glmtune.metrics import significance
from glmtune.metrics.significance import (
    COLUMNS_AT_ONCE,
    CONFIDENCE,
    MIN_ROWS,
    Interval,
    Values,
    adjusted_p_values,
    bootstrap_means,
    detectable_difference,
    paired_differences,
)

VALUES = np.random.default_rng(1).normal(10, 3, size=400).tolist()


def bootstrap_mean(values: Values, **options: Any) -> Interval:
    return bootstrap_means({"": values}, **options)[""]


def paired_difference(values: Values, baseline: Values) -> Interval:
    return paired_differences({"run": values, "base": baseline})["run", "base"]


def bounds(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def with_p_value(p: float) -> Interval:
    value = NormalDist().inv_cdf(1 - p / 2)
    return Interval(value, 0.0, 0.0, MIN_ROWS, error=1.0)


def is_significant(difference: Interval) -> bool:
    return difference.p_value < 1 - CONFIDENCE


def test_the_interval_agrees_with_the_normal_distribution() -> None:
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
    assert bounds(bootstrap_mean(VALUES)) == pytest.approx(bounds(whole), rel=1e-12)


def test_pairing_finds_a_small_gain_that_every_row_shares() -> None:
    better = [value + 0.1 for value in VALUES]
    difference = paired_difference(better, VALUES)
    assert difference.value == pytest.approx(0.1)
    assert (difference.low, difference.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert is_significant(difference)


def test_equal_runs_do_not_differ() -> None:
    assert paired_difference(VALUES, VALUES) == Interval(0.0, 0.0, 0.0, 400)
    assert not is_significant(paired_difference(VALUES, VALUES))


def test_noise_is_not_significant() -> None:
    noise = np.random.default_rng(2).normal(0, 1, size=400)
    noise -= noise.mean()
    difference = paired_difference((np.asarray(VALUES) + noise).tolist(), VALUES)
    assert difference.low < 0 < difference.high
    assert not is_significant(difference)


def test_a_loss_is_as_significant_as_a_gain() -> None:
    assert is_significant(paired_difference([0.0] * MIN_ROWS, [1.0] * MIN_ROWS))


def test_few_rows_show_no_significant_difference() -> None:
    assert not is_significant(paired_difference([1.0] * (MIN_ROWS - 1), [0.0] * (MIN_ROWS - 1)))


def test_an_interval_covers_the_truth_at_its_confidence() -> None:
    draws = np.random.default_rng(5).normal(0, 1, size=(100, 100))
    intervals = bootstrap_means(dict(enumerate(draws.tolist())), confidence=0.9)
    assert 82 <= sum(each.low <= 0 <= each.high for each in intervals.values()) <= 97


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]]])
def test_nothing_to_resample_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected a list of numbers"):
        bootstrap_mean(values)


def test_runs_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="different rows: 2 and 3"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])


def test_each_pair_of_runs_is_compared_independently() -> None:
    noise = np.random.default_rng(3).normal(0, 1, size=(3, len(VALUES)))
    runs = {name: (VALUES + row).tolist() for name, row in zip("abc", noise, strict=True)}
    found = paired_differences(runs)
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (first, second), interval in found.items():
        alone = paired_difference(runs[first], runs[second])
        assert bounds(interval) == pytest.approx(bounds(alone), abs=1e-12)
    chosen = paired_differences(runs, [("c", "a")])
    assert chosen["c", "a"].value == pytest.approx(-found["a", "c"].value)


def test_identical_runs_do_not_differ_among_many() -> None:
    """Not even in the last digit, which an interval of zero width would call a difference."""
    found = paired_differences({"a": VALUES, "b": VALUES, "c": [v + 1 for v in VALUES]})
    assert found["a", "b"] == Interval(0.0, 0.0, 0.0, 400)
    assert found["a", "b"].p_value == 1
    assert is_significant(found["a", "c"])


def test_a_row_without_a_score_in_one_run_is_ignored() -> None:
    whole = paired_difference(VALUES[1:], VALUES[:-1])
    gaps = paired_difference([None, *VALUES[1:], 1.0], [5.0, *VALUES[:-1], None])
    assert gaps == whole
    assert gaps.rows == 399


def test_the_p_value_agrees_with_the_normal_distribution() -> None:
    assert Interval(1.96, 0, 0, 1070, error=1.0).p_value == pytest.approx(0.05, abs=1e-4)
    assert Interval(-2.5758, 0, 0, 1070, error=1.0).p_value == pytest.approx(0.01, abs=1e-5)
    assert paired_difference([1.0] * MIN_ROWS, [0.0] * MIN_ROWS).p_value == 0


def test_few_rows_have_no_p_value() -> None:
    assert Interval(9.0, 8, 10, MIN_ROWS - 1, error=0.1).p_value == 1


def test_holm_corrects_for_the_number_of_comparisons() -> None:
    raw = {"a": with_p_value(0.01), "b": with_p_value(0.04), "c": with_p_value(0.03)}
    assert adjusted_p_values(raw) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert adjusted_p_values({"a": with_p_value(0.6), "b": with_p_value(0.9)}) == {"a": 1, "b": 1}
    assert adjusted_p_values({}) == {}


def test_differences_left_out_count_in_the_correction() -> None:
    """As if their p-values were 1: no p-value is smaller than among all differences."""
    tested = {"a": with_p_value(0.01), "b": with_p_value(0.001)}
    found = adjusted_p_values(tested, untested=3)
    assert found == pytest.approx({"a": 0.04, "b": 0.005})
    left_out = {index: with_p_value(0.5) for index in range(3)}
    among_all = adjusted_p_values({**tested, **left_out})
    assert all(found[key] >= among_all[key] for key in tested)


def test_many_columns_are_resampled_in_parts_with_the_same_draws() -> None:
    column = np.random.default_rng(9).normal(size=30).tolist()
    found = bootstrap_means(dict.fromkeys(range(2 * COLUMNS_AT_ONCE + 1), column))
    ends = np.array([(each.low, each.high) for each in found.values()])
    assert len(found) == 2 * COLUMNS_AT_ONCE + 1
    assert np.ptp(ends, axis=0).max() < 1e-12


def test_corrected_comparisons_of_pure_noise_are_not_significant() -> None:
    noise = np.random.default_rng(7).normal(size=(20, 200)).tolist()
    found = paired_differences(dict(enumerate(noise)))
    assert sum(each.p_value < 0.05 for each in found.values()) > 3
    assert min(adjusted_p_values(found).values()) > 1 - CONFIDENCE


def test_a_detectable_difference_is_found_with_the_stated_power() -> None:
    draws = np.random.default_rng(8).normal(0, 1, size=(200, 100))
    size = detectable_difference(Interval(0, 0, 0, 100, error=0.1), confidence=0.95)
    assert size == pytest.approx(0.28, abs=0.001)
    found = bootstrap_means(dict(enumerate((draws + size).tolist())), confidence=0.95)
    assert 140 <= sum(each.low > 0 for each in found.values()) <= 180
