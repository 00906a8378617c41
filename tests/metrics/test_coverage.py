"""Coverage of 95 % intervals, simulated for the quantities that tables show: differences, speed-ups, correlations, shares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sdvar_exp.metrics import mean_interval, ratio_interval, sequential
from sdvar_exp.metrics import statistics as ours
from sdvar_exp.metrics.proportion import proportion_interval
from sdvar_exp.plan import Until

TRIALS = 800
SEQUENTIAL_TRIALS = 400
NOISE = 2 * (0.05 * 0.95 / TRIALS) ** 0.5  # two standard errors of a simulated coverage
DESIGNS = [(10, 2), (10, 5), (4, 3), (3, 8), (1, 30)]

Draw = Callable[[np.random.Generator, int, int], tuple[np.ndarray, float]]


def difference(rng: np.random.Generator, labels: int, seeds: int) -> tuple[np.ndarray, float]:
    """Pixel difference of one cell less that of another on the same unit: both skewed, correlated through the unit."""
    level = np.repeat(np.linspace(0.03, 0.08, labels), seeds)
    shared = rng.gamma(4, 0.25, level.size)
    a, b = (level * shared * rng.gamma(8, 0.125, level.size) for _ in range(2))
    return 1.2 * b - a, 0.2 * float(level.mean())


def speedup(rng: np.random.Generator, labels: int, seeds: int) -> tuple[np.ndarray, float]:
    """Log ratio of two times: mostly a few per cent of noise, now and then a hiccup on one side."""
    n = labels * seeds
    hiccup = (rng.random((2, n)) < 0.03) * rng.exponential(0.15, (2, n))
    return np.log(1.6) + rng.normal(0, 0.04, n) + hiccup[0] - hiccup[1], float(np.log(1.6))


def correlation(rng: np.random.Generator, labels: int, seeds: int) -> tuple[np.ndarray, float]:
    """Pearson correlation of an image with the baseline's: near 1, skewed to the left, bounded, labels of several levels."""
    level = np.repeat(np.linspace(0.05, 0.2, labels), seeds)
    return 1 - level * rng.gamma(3, 1 / 3, level.size), 1 - float(level.mean())


@pytest.mark.long
@pytest.mark.parametrize(("labels", "seeds"), DESIGNS)
@pytest.mark.parametrize("draw", [difference, speedup, correlation])
def test_intervals_of_means_cover(draw: Draw, labels: int, seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "RESAMPLES", 999)
    rng = np.random.default_rng([labels, seeds])
    groups = np.repeat(np.arange(labels), seeds)
    covered = 0
    for _ in range(TRIALS):
        values, truth = draw(rng, labels, seeds)
        if draw is speedup:
            found, truth = ratio_interval(values, groups), float(np.exp(truth))
        else:
            found = mean_interval(values, groups)
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.93 - NOISE <= covered / TRIALS <= 0.97 + NOISE, covered / TRIALS


@pytest.mark.long
@pytest.mark.parametrize(("labels", "seeds"), [(10, 2), (10, 5), (4, 5), (3, 8), (1, 30), (10, 10)])
@pytest.mark.parametrize("apart", [0.0, 0.1])
def test_intervals_of_shares_cover(labels: int, seeds: int, apart: float) -> None:
    """Averaged over true shares from 0.5 to 0.98: at a single one, every interval of counts swings."""
    rng = np.random.default_rng([labels, seeds])
    groups = np.repeat(np.arange(labels), seeds)
    covered = trials = 0
    for share in np.linspace(0.5, 0.98, 25):
        shares = np.clip(share + np.linspace(-apart, apart, labels), 0, 1) if labels > 1 else np.array([share])
        for _ in range(120):
            found = proportion_interval(rng.random(groups.size) < shares[groups], groups)
            assert found.low is not None and found.high is not None
            covered += found.low <= shares.mean() <= found.high
            trials += 1
    assert 0.93 - NOISE <= covered / trials <= 0.97 + NOISE, covered / trials


@pytest.mark.long
def test_bca_alone_would_not_cover_times_with_hiccups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: why no bound is nearer to the mean than that of the t interval."""
    monkeypatch.setattr(ours, "RESAMPLES", 999)
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(TRIALS):
        values, truth = speedup(rng, 1, 30)
        low, high = ours._bca([values], np.ones(1), 2.045) or (0.0, 0.0)
        covered += low <= truth <= high
    assert covered / TRIALS < 0.935


@pytest.mark.long
def test_a_normal_interval_for_few_seeds_would_not_cover() -> None:
    """Negative control: the same simulation finds the usual mistake, 1.96 standard errors at two seeds per label."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(TRIALS):
        values, truth = correlation(rng, 3, 2)
        strata = values.reshape(3, 2)
        error = np.sqrt((strata.var(axis=1, ddof=0) / 2).sum()) / 3
        covered += abs(values.mean() - truth) <= 1.96 * error
    assert covered / TRIALS < 0.9


@pytest.mark.long
@pytest.mark.parametrize(("draw", "wanted"), [(difference, 0.012), (speedup, 0.04), (correlation, 0.03)])
@pytest.mark.parametrize("labels", [1, 4])
def test_the_interval_at_which_images_stop_covers(
    draw: Draw, wanted: float, labels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`seeds=until`: images are added until the interval of a look is narrow enough, which is the one that is judged."""
    monkeypatch.setattr(ours, "RESAMPLES", 999)
    looks = Until((), 48).looks
    levels = sequential.levels(looks)
    rng = np.random.default_rng([labels, 7])
    covered, stopped = 0, []
    for _ in range(SEQUENTIAL_TRIALS):
        values, truth = draw(rng, labels, looks[-1])
        by_label = values.reshape(labels, looks[-1])
        for seeds, level in zip(looks, levels, strict=True):
            found = mean_interval(by_label[:, :seeds].ravel(), np.repeat(np.arange(labels), seeds), level)
            assert found.mean is not None and found.low is not None and found.high is not None
            if max(found.mean - found.low, found.high - found.mean) <= wanted:
                break
        stopped.append(seeds)
        covered += found.low <= truth <= found.high
    share = covered / SEQUENTIAL_TRIALS
    assert share >= 0.95 - 2 * (0.05 * 0.95 / SEQUENTIAL_TRIALS) ** 0.5 - 0.01, (share, np.mean(stopped))
    assert looks[0] < np.mean(stopped) < looks[-1], "the rule is at work"
