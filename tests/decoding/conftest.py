"""Pairs that the tests of the decoding core share; none of them is changed by decoding."""

from __future__ import annotations

import pytest

from sdvar_exp.models.pair import Pair
from tests.support import golden_pair, near_pair


@pytest.fixture(scope="session")
def far() -> Pair:
    """A draft that has nothing to do with the target, float64."""
    return golden_pair("tiny", "float64")


@pytest.fixture(scope="session")
def near() -> Pair:
    """A draft that agrees on most tokens, so that stages pass and fail, float64."""
    return near_pair("tiny", "float64", shift=0.08)


@pytest.fixture(scope="session")
def same() -> Pair:
    """A draft that is the target, float64."""
    return golden_pair("tiny", "float64", draft="target")
