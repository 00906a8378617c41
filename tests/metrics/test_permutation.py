"""Sign flips against SciPy and by hand, Holm's correction, shares, power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sdvar_exp.metrics import identical_bound, mean_interval
from sdvar_exp.metrics.permutation import EXACT_UP_TO, holm, sign_flip
from sdvar_exp.metrics.power import images_needed, power, seeds_needed, spread
from sdvar_exp.metrics.proportion import proportion_interval


def scipy_p(x: np.ndarray, resamples: float = np.inf) -> float:
    result = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=resamples, rng=np.random.default_rng(3)
    )
    return float(result.pvalue)


@pytest.mark.parametrize("n", [2, 5, 9, 12])
def test_few_units_are_flipped_exactly_as_scipy_does(n):
    x = np.random.default_rng(n).normal(0.4, 1, n)
    assert sign_flip(x) == pytest.approx(scipy_p(x))


def test_many_units_are_close_to_scipys_random_flips():
    x = np.random.default_rng(1).normal(0.25, 1, 60)
    assert sign_flip(x) == pytest.approx(scipy_p(x, 19_999), abs=0.012)


def test_flips_by_hand():
    assert sign_flip([1.0, 1.0, 1.0]) == 2 / 8  # +++ and ---
    assert sign_flip([1.0, 2.0]) == 2 / 4
    assert sign_flip([3.0, -1.0]) == 1.0  # sums 2, 4, -4, -2: all at least 2 away
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([]) is None
    assert sign_flip([0.1 + 0.2, -0.3]) == 1.0  # rounding decides nothing
    assert sign_flip([5.0, 0.0, 0.0, 0.0]) == 1.0  # units without a difference add no evidence
    with pytest.raises(ValueError, match="finite"):
        sign_flip([1.0, math.nan])


def test_flips_do_not_depend_on_the_order_or_the_unit():
    x = np.random.default_rng(2).normal(0.3, 1, 40)
    assert sign_flip(x) == sign_flip(x[::-1]) == sign_flip(-x)
    assert sign_flip(x) == pytest.approx(sign_flip(4.0 * x), abs=0.01)
    assert 1 / 10_000 <= sign_flip(np.full(40, 3.0)) <= 2 / 10_000  # never 0


def test_false_alarms_are_as_rare_as_claimed():
    rng = np.random.default_rng(5)
    n = EXACT_UP_TO - 2
    small = [sign_flip(rng.gamma(2, 1, n) - rng.gamma(2, 1, n)) <= 0.05 for _ in range(600)]
    assert 0.05 - 0.025 <= np.mean(small) <= 0.05 + 0.025


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([None, 0.02, None, 0.5]) == [None, 0.04, None, 0.5]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.2])


def test_holm_is_between_bonferroni_and_nothing():
    p = np.random.default_rng(0).random(20) ** 3
    adjusted = np.array(holm(p.tolist()))
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, 20 * p) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_one_label_gives_scipys_wilson_interval():
    hits = [True] * 27 + [False] * 3
    found, expected = proportion_interval(hits, [0] * 30), stats.binomtest(27, 30).proportion_ci(0.95, "wilson")
    assert (found.mean, found.low, found.high) == pytest.approx((0.9, expected.low, expected.high))


def test_shares_at_the_ends_keep_a_width():
    found = proportion_interval([True] * 40, [0, 1] * 20)
    assert found.high == 1 and found.low == pytest.approx(stats.binomtest(40, 40).proportion_ci(0.95, "wilson").low)
    assert mean_interval([1.0] * 40, [0, 1] * 20).low == 1  # which is why shares have their own
    assert proportion_interval([], []).mean is None
    assert proportion_interval([True], [3]).low < 0.25


def test_labels_with_different_shares_narrow_the_interval():
    hits = [True] * 20 + [False] * 20
    apart, mixed = proportion_interval(hits, [0] * 20 + [1] * 20), proportion_interval(hits, [0, 1] * 20)
    assert apart.high - apart.low < 0.6 * (mixed.high - mixed.low)
    with pytest.raises(ValueError, match="true or false"):
        proportion_interval([0.5], [0])


def test_power_of_one_label_is_that_of_the_t_test():
    # a one-sample t test of n = 20 with effect size 0.5 has power 0.5645 (G*Power; Cohen 1988, table 2.4 rounds to .56)
    assert power(0.5, 1.0, labels=1, seeds=20) == pytest.approx(0.5645, abs=5e-4)
    assert seeds_needed(0.5, 1.0, labels=1) == 34  # the textbook's n for power 0.8
    assert power(0.0, 1.0, 4, 5) == pytest.approx(0.05)
    assert power(0.1, 0.0, 4, 5) == 1.0
    assert seeds_needed(0.0, 1.0, 3) is None and seeds_needed(1e-9, 1.0, 1) is None
    assert seeds_needed(100.0, 1.0, 3) == 2


@pytest.mark.parametrize(
    ("labels", "seeds", "effect"),
    [(4, 3, 0.9), (1, 12, 0.8), *(pytest.param(*case, marks=pytest.mark.long) for case in ((10, 2, 0.6), (5, 8, 0.45)))],
)
def test_power_is_what_simulation_gives(labels, seeds, effect, monkeypatch):
    """The share of simulated studies whose own interval leaves 0 out; from 20 units the interval is a bootstrap."""
    monkeypatch.setattr("sdvar_exp.metrics.statistics.RESAMPLES", 499)
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(labels), seeds)
    centres = np.linspace(-3, 3, labels)[groups] if labels > 1 else np.zeros(seeds)  # labels differ; only their mean counts
    trials, shown = 400, 0
    for _ in range(trials):
        found = mean_interval(centres + effect + rng.normal(0, 1, groups.size), groups)
        shown += found.low > 0 or found.high < 0
    assert shown / trials == pytest.approx(power(effect, 1.0, labels, seeds), abs=0.07)


def test_spread_leaves_the_labels_own_means_out():
    values, labels = [1.0, 2.0, 101.0, 104.0, 7.0], [0, 0, 1, 1, 2]
    sd, freedom = spread(values, labels)
    assert freedom == 2 and sd == pytest.approx(math.sqrt((0.5 + 4.5) / 2))
    assert spread([1.0, 2.0], [0, 1]) is None


def test_images_needed_is_the_inverse_of_the_bound():
    for bound in (0.01, 0.03, 0.2):
        n = images_needed(bound)
        assert identical_bound(n, n) <= bound < identical_bound(n - 1, n - 1)
