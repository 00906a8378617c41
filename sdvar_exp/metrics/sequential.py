"""Intervals that hold although the data are looked at several times: group-sequential boundaries by alpha spending.

Whoever adds images until an interval is narrow enough looks at it more than once. Here each look k, after a share t_k of the
most images that there may be, has an interval at a level of its own, higher than 95 %, so that with a probability of 95 % *all*
of them hold; thus the one at which the data stop holds whatever the rule of stopping is (repeated confidence intervals,
Jennison and Turnbull 1989). The levels come from Lan and DeMets (1983): by look k the error α·ln(1+(e-1)·t_k) is spent, their
function of Pocock's kind, and the critical values c_k solve P(|Z_1| < c_1, …, |Z_k-1| < c_k-1, |Z_k| ≥ c_k) = what is spent
at look k, for means of independent normal draws (Armitage, McPherson and Rowe 1969). The level 1 - 2Φ(-c_k) is then used for
whatever interval suits the data (the significance level approach: Jennison and Turnbull 2000, section 4.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from scipy.integrate import simpson
from scipy.optimize import brentq
from scipy.stats import norm

GRID = 801
LARGEST = 12.0


def spent(share: float, alpha: float = 0.05) -> float:
    """Error that is spent by the time that a share in (0, 1] of the most data is there."""
    return alpha * math.log1p((math.e - 1) * min(share, 1.0))


@cache
def boundaries(shares: tuple[float, ...], alpha: float = 0.05) -> tuple[float, ...]:
    """Two-sided critical values, one per look, of increasing shares of the most data, the last of them at most 1."""
    if not shares or min(shares) <= 0 or max(shares) > 1 or any(b <= a for a, b in pairwise(shares)):
        raise ValueError(f"shares must increase within (0, 1], got {shares}")
    out = [float(norm.isf(spent(shares[0], alpha) / 2))]
    reach = out[0] * math.sqrt(shares[0])
    at = np.linspace(-reach, reach, GRID)  # the sum of draws, of variance t
    density = norm.pdf(at, scale=math.sqrt(shares[0]))
    for before, share in pairwise(shares):
        step = math.sqrt(share - before)
        wanted = spent(share, alpha) - spent(before, alpha)
        out.append(float(brentq(_excess, 0.0, LARGEST, args=(at, density, share, step, wanted))))
        reach = out[-1] * math.sqrt(share)
        ahead = np.linspace(-reach, reach, GRID)
        density = simpson(density * norm.pdf(ahead[:, None], loc=at, scale=step), x=at, axis=1)
        at = ahead
    return tuple(out)


def _excess(bound: float, at: np.ndarray, density: np.ndarray, share: float, step: float, wanted: float) -> float:
    """By how much the chance to leave ±bound at this look, and not before, is above the wanted one."""
    edge = bound * math.sqrt(share)
    return float(simpson(density * (norm.sf((edge - at) / step) + norm.cdf((-edge - at) / step)), x=at)) - wanted


def levels(sizes: Sequence[int], alpha: float = 0.05) -> tuple[float, ...]:
    """Level of the interval at each look, from how much data there is at each; the last is the most."""
    shares = tuple(size / sizes[-1] for size in sizes)
    return tuple(1 - 2 * float(norm.sf(bound)) for bound in boundaries(shares, alpha))
