"""Tests of paired differences without a distribution: sign flips, and Holm's correction over several of them.

A unit is (label, seed); its difference is between two cells on the same label, seed and noise. If neither cell tends to be
higher, each unit's difference could as well have had the other sign. Units of one label are independent draws, so signs
are flipped unit by unit; the statistic is the mean over units, as in `statistics.mean_interval`. Where labels differ in
their own means, their spread stays in the flipped samples, which errs on the side of a larger p.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

EXACT_UP_TO = 14  # units with a difference; 2**14 sign patterns are all enumerated
FLIPS = 9999
CHUNK = 2_000_000  # signs in memory at a time


def sign_flip(differences: Sequence[float]) -> float | None:
    """Two-sided p of the hypothesis that the paired `differences` (n,) are symmetric about 0; None for n = 0.

    All 2^m patterns of the m differences that are not 0 up to m = 14, from there `FLIPS` random ones, the observed one
    counted among them: p = (b+1)/(FLIPS+1) (Phipson and Smyth 2010). Seeded by a hash of the data, independent of their
    order. If all are 0 then p = 1. Raises ValueError for values that are not finite.

    `scipy.stats.permutation_test` gives the same p where it takes all patterns, and one as good where it draws (a test
    compares them). It is not called here because it shuffles each value with its negative in every resample, where one
    random sign does, and because other draws would move every p that is kept with a figure.
    """
    x = np.asarray(differences, np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise ValueError("differences must be a list of finite numbers; leave missing ones out and count them")
    if x.size == 0:
        return None
    x = x[x != 0]
    if x.size == 0:
        return 1.0
    observed = abs(math.fsum(x))
    x = np.sort(np.abs(x))  # flipped signs know nothing of the observed ones, nor of an order
    least = observed - 1e-9 * x.sum()  # sums that differ by rounding alone count as equal
    if x.size <= EXACT_UP_TO:
        patterns = (np.arange(2**x.size)[:, None] >> np.arange(x.size)) & 1
        return float((np.abs((1 - 2 * patterns) @ x) >= least).mean())
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(x.tobytes()).digest()[:8], "little"))
    beyond, left = 0, FLIPS
    while left:
        part = min(left, max(1, CHUNK // x.size))
        signs = 1 - 2 * rng.integers(0, 2, (part, x.size), dtype=np.int8)
        beyond += int((np.abs(signs @ x) >= least).sum())
        left -= part
    return (beyond + 1) / (FLIPS + 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p of each hypothesis (Holm 1979): reject those ≤ α, and the chance of any false rejection is ≤ α.

    The i-th smallest of m is multiplied by m-i+1, never below the one before it, at most 1. None stays None and does not
    count among the m. Raises ValueError outside [0, 1].
    """
    known = [(i, float(p)) for i, p in enumerate(p_values) if p is not None]
    if any(not 0 <= p <= 1 for _, p in known):
        raise ValueError("p values must lie in [0, 1]")
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (i, p) in enumerate(sorted(known, key=lambda pair: pair[1])):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = highest
    return adjusted
