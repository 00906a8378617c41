"""Intervals of a share, e.g. of images that the classifier recognises: 0/1 values in strata."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from sdvar_exp.metrics.statistics import Interval

LEAST_RATIO = 0.2


def proportion_interval(hits: Sequence[bool], labels: Sequence[int], level: float = 0.95) -> Interval:
    """Share of `hits` (n,) with Wilson's score interval (1927) for the effective sample size of the strata `labels` (n,).

    Fixed labels take the spread between their own shares out: the effective size is n ÷ (mean variance within labels,
    unbiased, ÷ variance of all), the ratio kept within [0.2, 1]. The interval has a width also where all units agree,
    unlike `mean_interval`. Simulated coverage at 95 %, averaged over shares of 0.5 to 0.98, is 93 to 97 % for 20 units on;
    at a single share it swings by ± 2 % more, as that of every interval of counts does. For k/N identical images see
    `identical_bound`, whose bound is exact.
    """
    x, group = np.asarray(hits, np.float64), np.asarray(labels)
    if x.ndim != 1 or x.shape != group.shape:
        raise ValueError(f"one label per value is needed, got {x.shape} values and {group.shape} labels")
    if not np.isin(x, (0.0, 1.0)).all():
        raise ValueError("a share is of values that are true or false")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    n = x.size
    if n == 0:
        return Interval(0, None, None, None)
    share = float(x.mean())
    size = n / _variance_ratio(x, group)
    z = float(special.ndtri((1 + level) / 2))
    centre = (share + z * z / (2 * size)) / (1 + z * z / size)
    reach = z / (1 + z * z / size) * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    return Interval(n, share, max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share)), "wilson")


def _variance_ratio(x: np.ndarray, group: np.ndarray) -> float:
    """Variance within strata ÷ variance of all; labels with one unit count with the variance of all."""
    n, share = x.size, x.mean()
    whole = share * (1 - share) * n / max(n - 1, 1)
    if whole == 0:
        return 1.0
    _, index = np.unique(group, return_inverse=True)
    sizes = np.bincount(index)
    shares = np.bincount(index, weights=x) / sizes
    within = np.where(sizes > 1, shares * (1 - shares) * sizes / np.maximum(sizes - 1, 1), whole)
    return float(np.clip((sizes / n * within).sum() / whole, LEAST_RATIO, 1))
