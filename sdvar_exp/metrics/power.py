"""Number of units that shows an effect: power of the t interval over strata, from the spread within a label.

The interval is that of `statistics.mean_interval`: labels are fixed strata, seeds are resampled within a label. With H
labels of m seeds and a spread σ within a label, the mean of n = H·m units has the standard error σ/√n and n-H degrees of
freedom; an effect δ is shown when the interval leaves 0 out, with the chance that the noncentral t distribution gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

MOST_SEEDS = 1_000_000


def spread(values: Sequence[float], labels: Sequence[int]) -> tuple[float, int] | None:
    """Pooled standard deviation of `values` (n,) within labels, and its degrees of freedom; None if no label has two."""
    x, group = np.asarray(values, np.float64), np.asarray(labels)
    if x.shape != group.shape or not np.isfinite(x).all():
        raise ValueError("one label per finite value is needed")
    parts = [x[group == g] for g in np.unique(group)]
    freedom = sum(p.size - 1 for p in parts)
    if freedom == 0:
        return None
    return math.sqrt(sum(((p - p.mean()) ** 2).sum() for p in parts) / freedom), freedom


def power(effect: float, sd: float, labels: int, seeds: int, level: float = 0.95) -> float:
    """Chance that the two-sided interval at `level` over labels × seeds leaves 0 out, if the true mean is `effect`.

    effect, sd: in the same unit, sd > 0 within a label. seeds ≥ 2, or one seed of several labels, which are then pooled.
    """
    freedom = labels * (seeds - 1) if seeds > 1 else labels - 1
    if freedom < 1:
        return 0.0
    if sd == 0:
        return 1.0 if effect else 0.0
    shift = abs(effect) / sd * math.sqrt(labels * seeds)
    reach = float(stats.t.ppf((1 + level) / 2, freedom))
    found = float(stats.nct.sf(reach, freedom, shift) + stats.nct.cdf(-reach, freedom, shift))
    if math.isnan(found):  # SciPy's series fail for a large shift; there it is near to normal (Johnson and Welch, 1940)
        return float(stats.norm.sf((reach - shift) / math.sqrt(1 + reach**2 / (2 * freedom))))
    return found


def seeds_needed(effect: float, sd: float, labels: int, wanted: float = 0.8, level: float = 0.95) -> int | None:
    """Fewest seeds per label, at least 2, that show `effect` with power `wanted`; None above a million or for no effect."""
    if not 0 < wanted < 1:
        raise ValueError(f"power must lie in (0, 1), got {wanted}")
    if effect == 0:
        return None
    low, high = 1, 2
    while power(effect, sd, labels, high, level) < wanted:
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:  # power grows with the seeds
        middle = (low + high) // 2
        if power(effect, sd, labels, middle, level) < wanted:
            low = middle
        else:
            high = middle
    return max(high, 2)


def images_needed(bound: float, level: float = 0.95) -> int:
    """Fewest images that must all be identical for `identical_bound` to be at most `bound`."""
    if not 0 < bound < 1:
        raise ValueError(f"bound must lie in (0, 1), got {bound}")
    return math.ceil(math.log1p(-level) / math.log1p(-bound) - 1e-9)
