"""The power of an interval where SciPy's series for the noncentral t distribution give up."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from scipy import stats

from sdvar_exp.metrics.power import power


def test_power_of_large_effects_is_a_number_and_grows() -> None:
    effects = [0.01 * 1.5**i for i in range(40)]  # shifts from 0.1 to 10⁶
    found = [power(effect, 0.5, 10, 3) for effect in effects]
    assert all(0 <= value <= 1 for value in found) and found[-1] == 1.0
    assert all(b >= a - 1e-9 for a, b in pairwise(found))
    assert math.isnan(power(math.nan, 0.5, 10, 3)), "an effect that is not known has no power"


@pytest.mark.parametrize("shift", [4.0, 6.0, 8.0])
def test_what_stands_in_is_near(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = power(shift / math.sqrt(30), 1.0, 10, 3)
    monkeypatch.setattr(stats.nct, "sf", lambda *_: math.nan)
    assert power(shift / math.sqrt(30), 1.0, 10, 3) == pytest.approx(exact, abs=5e-3)
