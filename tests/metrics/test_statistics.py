"""Intervals against SciPy on known cases, degenerate cases, and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sdvar_exp.metrics import Interval, identical_bound, mean_interval, ratio_interval, unit_means
from sdvar_exp.metrics import statistics as ours


def test_one_stratum_below_twenty_units_is_scipys_t_interval():
    values = [0.1, 0.4, 0.35, 0.8, 0.2]
    result = mean_interval(values, [3] * 5)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert result.method == "t"
    assert (result.mean, result.low, result.high) == pytest.approx((np.mean(values), expected.low, expected.high))


def test_equal_spread_in_two_strata_gives_n_minus_two_degrees_of_freedom():
    values, labels = [1.0, 2.0, 3.0, 11.0, 12.0, 13.0], [0, 0, 0, 1, 1, 1]
    result = mean_interval(values, labels)
    # standard error sqrt(1/6); Satterthwaite's unbiased form gives (2p)²/(2p²/4) - 2 = 6, cut to n - H = 4
    reach = stats.t.ppf(0.975, 4) / math.sqrt(6)
    assert (result.mean, result.low, result.high) == pytest.approx((7, 7 - reach, 7 + reach))


def test_strata_are_weighted_by_their_counts_and_take_out_the_spread_between_labels():
    values, labels = [0.0, 0.1, 0.2, 10.0, 10.1], [0, 0, 0, 1, 1]
    result = mean_interval(values, labels)
    assert result.mean == pytest.approx(np.mean(values))
    assert result.high - result.low < 1
    assert mean_interval(values, [0] * 5).high - mean_interval(values, [0] * 5).low > 10


def test_from_twenty_units_the_bootstrap_is_scipys_bca():
    rng = np.random.default_rng(5)
    values = rng.gamma(2, 1, 60)
    result = mean_interval(values, [0] * 60)
    stretched = values.mean() + math.sqrt(60 / 59) * (values - values.mean())
    level = 2 * stats.norm.cdf(stats.t.ppf(0.975, 59)) - 1
    expected = stats.bootstrap(
        [stretched], np.mean, confidence_level=level, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = ours._bca([np.sort(values)], np.ones(1), stats.t.ppf(0.975, 59))
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=0.02)  # two random streams
    t = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert result.method == "bca"
    assert (result.low, result.high) == pytest.approx((min(low, t.low), max(high, t.high)))
    assert result.high - result.mean > result.mean - result.low  # skewed to the right


def test_nineteen_and_twenty_units():
    values = np.linspace(0, 1, 20)
    assert mean_interval(values[:19], [0] * 19).method == "t"
    assert mean_interval(values, [0] * 20).method == "bca"


def test_many_strata_take_the_t_interval():
    values = np.random.default_rng(0).random(120)
    labels = np.repeat(np.arange(60), 2)
    result = mean_interval(values, labels)
    assert result.method == "t"
    assert result.low < 0.5 < result.high


def test_degenerate_cases():
    assert mean_interval([], []) == Interval(0, None, None, None, "none")
    assert mean_interval([0.3], [1]) == Interval(1, 0.3, None, None, "none")
    assert mean_interval([0.3] * 30, [1] * 30) == Interval(30, 0.3, 0.3, 0.3, "constant")
    assert mean_interval([0.1, 0.1, 0.2, 0.2], [0, 0, 1, 1]).method == "constant"
    assert mean_interval([0.0] * 8, [0, 1] * 4) == Interval(8, 0, 0, 0, "constant")
    assert ratio_interval([0.0] * 4, [0] * 4) == Interval(4, 1, 1, 1, "constant")
    assert ratio_interval([], []).mean is None


def test_under_three_degrees_of_freedom_the_range_of_the_values_stands():
    for values, labels in (([0.1, 0.3], [0, 0]), ([0.1, 0.3, 0.2], [0] * 3), ([0.035, 0.112, 0.05, 0.09], [0, 0, 3, 3])):
        found = mean_interval(values, labels)
        assert (found.method, found.low, found.high) == ("range", min(values), max(values))
    assert ratio_interval(np.log([0.5, 4.0]), [0, 0]) == Interval(2, pytest.approx(2**0.5), 0.5, pytest.approx(4), "range")
    assert mean_interval([0.1, 0.3, 0.2, 0.4], [0] * 4).method == "t"
    assert mean_interval([0.1, 0.3, 0.2, 0.4, 0.5, 0.7], [0, 0, 1, 1, 2, 2]).method == "t"


def test_below_four_seeds_a_label_the_spread_within_labels_is_pooled():
    values, labels = [1.0, 1.2, 5.0, 7.0, 9.0, 9.1], [0, 0, 1, 1, 2, 2]
    found = mean_interval(values, labels)
    pooled = math.sqrt((0.02 + 2.0 + 0.005) / 3)
    reach = stats.t.ppf(0.975, 3) * pooled / math.sqrt(6)
    assert (found.low, found.high) == pytest.approx((found.mean - reach, found.mean + reach))


def test_labels_with_one_unit_are_pooled():
    values = [0.1, 0.5, 0.3, 0.9]
    assert mean_interval(values, [0, 1, 2, 3]) == mean_interval(values, [5, 5, 5, 5])
    assert mean_interval(values, [0, 0, 0, 1]) == mean_interval(values, [5, 5, 5, 5])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one label per value"):
        mean_interval([1, 2], [1])
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1, math.nan], [1, 1])
    with pytest.raises(ValueError, match="level"):
        mean_interval([1, 2], [1, 1], level=95)


def test_ratio_interval_is_the_geometric_mean():
    logs = np.log([1.5, 2.0, 2.5, 3.0])
    result = ratio_interval(logs, [0] * 4)
    inner = mean_interval(logs, [0] * 4)
    assert result.mean == pytest.approx(stats.gmean([1.5, 2, 2.5, 3]))
    assert (result.low, result.high) == pytest.approx((math.exp(inner.low), math.exp(inner.high)))
    inverse = ratio_interval(-logs, [0] * 4)
    assert inverse.mean == pytest.approx(1 / result.mean)  # a slow-down is the inverse of a speed-up


def test_identical_bound_is_clopper_pearson():
    assert identical_bound(100, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert identical_bound(0, 5) == 1
    assert identical_bound(0, 0) is None
    expected = stats.binomtest(3, 40, alternative="less").proportion_ci(0.95, "exact").high
    assert identical_bound(37, 40) == pytest.approx(expected)
    with pytest.raises(ValueError, match="0 … 4"):
        identical_bound(5, 4)


UNITS = st.lists(st.tuples(st.integers(0, 3), st.floats(-10, 10).map(lambda x: round(x, 3))), min_size=2, max_size=30)


@settings(max_examples=40, deadline=None)
@given(UNITS, st.randoms(use_true_random=False))
def test_interval_holds_its_mean_and_ignores_order(units, random):
    labels, values = zip(*units, strict=True)
    result = mean_interval(values, labels)
    assert result.n == len(units)
    assert result.low <= result.mean <= result.high
    shuffled = list(units)
    random.shuffle(shuffled)
    labels, values = zip(*shuffled, strict=True)
    assert mean_interval(values, labels) == result


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_wider_level_gives_a_wider_interval(seed):
    values = np.random.default_rng(seed).random(24)
    labels = [0, 1, 2] * 8
    narrow, wide = (mean_interval(values, labels, level) for level in (0.8, 0.99))
    assert wide.low < narrow.low
    assert wide.high > narrow.high


def test_the_global_random_state_is_untouched():
    before = np.random.get_state()[1].copy()
    mean_interval(np.arange(30.0), [0, 1] * 15)
    assert np.array_equal(before, np.random.get_state()[1])


def skewed(rng: np.random.Generator, mean: float, seeds: int) -> np.ndarray:
    """Like pixel differences of one label: positive, skewness 1.15."""
    return rng.gamma(3, mean / 3, seeds)


def normal(rng: np.random.Generator, mean: float, seeds: int) -> np.ndarray:
    """Like log speed-ups of one label."""
    return rng.normal(mean, 0.05, seeds)


CASES = [(normal, 3, 4), (skewed, 5, 4), (skewed, 10, 3), (normal, 10, 2)]


@pytest.mark.parametrize(("draw", "labels", "seeds"), CASES)
def test_coverage_of_95_percent_intervals(draw, labels, seeds, monkeypatch):
    monkeypatch.setattr(ours, "RESAMPLES", 799)
    rng = np.random.default_rng(2024)
    means = np.linspace(0.02, 0.08, labels)
    groups = np.repeat(np.arange(labels), seeds)
    trials = 400
    covered = 0
    for _ in range(trials):
        result = mean_interval(np.concatenate([draw(rng, m, seeds) for m in means]), groups)
        covered += result.low <= means.mean() <= result.high
    # 95 % ± 2 % is claimed; ± 2.2 % more is two standard errors of a share of 400 trials
    assert 0.93 - 0.022 <= covered / trials <= 0.97 + 0.022


def test_the_correction_for_few_seeds_is_needed():
    """Negative control: without it, ten labels with two seeds each are covered in far fewer than 93 % of trials."""
    rng = np.random.default_rng(2024)
    weights = np.full(10, 0.1)
    covered = 0
    for _ in range(200):
        strata = [rng.normal(0, 1, 2) for _ in range(10)]
        error = math.sqrt(sum(w * w * s.var() / s.size for w, s in zip(weights, strata, strict=True)))
        covered += abs(np.mean(strata)) <= 1.96 * error
    assert covered / 200 < 0.88


def test_cells_of_a_unit_are_averaged_before_units_are_counted():
    """Two units of three cells are two draws; a unit that a cell lacks is left out, and a cell without values is no cell."""
    rows = [("a", 0, 0, 1.0), ("b", 0, 0, 3.0), ("c", 0, 0, math.nan), ("a", 0, 1, 2.0), ("b", 0, 1, 6.0), ("b", 4, 0, 9.0)]
    cells, labels, seeds, values = zip(*rows, strict=True)
    means, strata = unit_means(values, cells, labels, seeds)
    assert (means.tolist(), strata.tolist()) == ([2.0, 4.0], [0, 0])
    assert unit_means([], [], [], [])[0].size == 0
    with pytest.raises(ValueError, match="twice"):
        unit_means([1, 2], ["a", "a"], [0, 0], [0, 0])


def test_more_cells_make_no_narrower_interval():
    """Thirty cells that share the noise of four images: coverage of the mean, and far too little if rows were counted."""
    rng = np.random.default_rng(4)
    covered = as_rows = 0
    for _ in range(300):
        values = rng.normal(0, 1, 5) + rng.normal(0, 0.1, (30, 5))
        cells, seeds = np.repeat(np.arange(30), 5), np.tile(np.arange(5), 30)
        found = mean_interval(*unit_means(values.ravel(), cells, np.zeros(150, int), seeds))
        wrong = stats.ttest_1samp(values.ravel(), 0).confidence_interval(0.95)
        covered += found.low <= 0 <= found.high
        as_rows += wrong.low <= 0 <= wrong.high
    assert covered / 300 >= 0.93 - 0.025
    assert as_rows / 300 < 0.5
