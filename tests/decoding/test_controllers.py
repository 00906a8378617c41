"""γ controllers and guidance schedules: literal traces, bounds, and that they hold no state."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdvar_exp.cell import Cell
from sdvar_exp.decoding.gamma import GammaContext, next_gamma
from sdvar_exp.decoding.guidance import weights
from sdvar_exp.decoding.records import Round
from sdvar_exp.decoding.speculate import check_loop
from sdvar_exp.errors import UserError
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import Choice, choose, names

TEN = Pyramid(tuple(range(1, 11)))


def replay(choice: Choice, passes: list[bool], until: int = 10) -> list[int]:
    """γ of each round if stage k passes where passes[k], under `correct`."""
    stage, history, out = 0, list[Round](), list[int]()
    while stage < until:
        gamma, reason = next_gamma(choice, GammaContext(stage, until, TEN, tuple(history)))
        assert isinstance(reason, str)
        out.append(gamma)
        verdicts = passes[stage : stage + gamma]
        passed = verdicts.index(False) if False in verdicts else gamma
        committed = min(passed + 1, gamma) if gamma else 1
        history.append(Round(len(history), stage, gamma, committed, passed, 0, tuple(verdicts[: passed + 1]), ()))
        stage += committed
    return out


YES, NO = [True] * 10, [False] * 10


@pytest.mark.parametrize(("name", "params", "passes", "expected"), [
    ("fixed", {"value": 3}, YES, [3, 3, 3, 1]),
    ("fixed", {"value": 3}, NO, [3, 3, 3, 3, 3, 3, 3, 3, 2, 1]),
    ("fixed", {"value": 99}, YES, [10]),
    ("table", {"values": (4, 1, 1, 1, 3)}, YES, [4, 3, 3]),
    ("table", {"values": (0, 2)}, YES, [0, 2, 2, 2, 2, 1]),
    ("table", {"values": [2]}, NO, [2] * 9 + [1]),
    ("aimd", {"start": 1}, YES, [1, 2, 3, 4]),
    ("aimd", {"start": 2, "largest": 3}, YES, [2, 3, 3, 2]),
    ("aimd", {"start": 3}, NO, [3, 2, 1, 1, 1, 1, 1, 1, 1, 1]),
    ("aimd", {"start": 5, "decrease": "halve"}, NO, [5, 2, 1, 1, 1, 1, 1, 1, 1, 1]),
    ("aimd", {"start": 4, "smallest": 2, "decrease": "halve"}, NO, [4, 2, 2, 2, 2, 2, 2, 2, 2, 1]),
    ("aimd", {"start": 2}, [True, True, True, False, *YES], [2, 3, 2, 3, 1]),
])
def test_traces(name: str, params: dict[str, Any], passes: list[bool], expected: list[int]) -> None:
    assert replay(choose("gamma", name, **params), passes) == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(name=st.sampled_from(names("gamma")), passes=st.lists(st.booleans(), min_size=10, max_size=10),
       until=st.integers(1, 10))
def test_any_controller_ends_and_never_proposes_more_than_is_left(name: str, passes: list[bool], until: int) -> None:
    choice = choose("gamma", name)
    trace = replay(choice, passes, until)
    assert 1 <= len(trace) <= until
    assert all(0 <= g <= until for g in trace)
    assert replay(choice, passes, until) == trace  # no state is left behind


@pytest.mark.parametrize(("name", "params", "message"), [
    ("fixed", {"value": 0}, "gamma.value must be ≥ 1, got 0"),
    ("table", {"values": ()}, r"gamma.values must be integers ≥ 0, got \[\]"),
    ("table", {"values": (1, -1)}, r"gamma.values must be integers ≥ 0, got \[1, -1\]"),
    ("aimd", {"start": 0}, "gamma needs 1 ≤ smallest ≤ start ≤ largest, got 1, 0, 10"),
    ("aimd", {"start": 3, "largest": 2}, "gamma needs 1 ≤ smallest ≤ start ≤ largest, got 1, 3, 2"),
    ("aimd", {"decrease": "slowly"}, "gamma.decrease must be one of minus_one, halve, got 'slowly'"),
    ("fixed", {"gamma": 2}, "gamma=fixed has no parameter 'gamma'; it has value"),
])
def test_bad_values(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose("gamma", name, **params)


@pytest.mark.parametrize(("name", "params", "expected"), [
    ("linear", {"cfg": 1.5}, [0, 0.375, 0.75, 1.125, 1.5]),
    ("constant", {"cfg": 2.0}, [2, 2, 2, 2, 2]),
    ("cosine", {"cfg": 2.0}, [0, 1 - math.sqrt(0.5), 1, 1 + math.sqrt(0.5), 2]),
    ("power", {"cfg": 1.6, "exponent": 2}, [0, 0.1, 0.4, 0.9, 1.6]),
    ("interval", {"cfg": 1.5, "first": 1, "last": 3}, [0, 1.5, 1.5, 1.5, 0]),
    ("off", {}, [0, 0, 0, 0, 0]),
])
def test_schedules(name: str, params: dict[str, Any], expected: list[float]) -> None:
    assert weights(choose("cfg_schedule", name, **params), 5) == pytest.approx(expected)


def test_a_pyramid_of_one_stage_has_a_weight() -> None:
    for name in names("cfg_schedule"):
        assert len(weights(choose("cfg_schedule", name), 1)) == 1


def test_a_cell_named_by_words_is_the_cell_named_by_members() -> None:
    """Plain words become enum members, so that they mean what they say and hash the same."""
    from sdvar_exp.decoding.speculate import OnReject, Stale

    words = choose("strategy", "parallel_v1", on_reject="continue", draft_stale="keep")
    assert words.params.on_reject is OnReject["continue"]
    assert words.params.draft_stale is Stale.keep
    assert words == Choice("strategy", "parallel_v1", replace(words.params, on_reject=OnReject["continue"]))
    with pytest.raises(UserError, match=r"strategy.on_reject must be one of correct, continue, redraft, got 'kontinue'"):
        choose("strategy", "parallel_v1", on_reject="kontinue")


def test_a_strength_for_the_draft_needs_a_schedule_that_has_one() -> None:
    loop = choose("strategy", "parallel_v1", draft_cfg=2.0)
    parts = {"mask": choose("mask", "block_causal"), "acceptance": choose("acceptance", "exact"),
             "gamma": choose("gamma", "fixed")}
    check_loop(Cell(loop, **parts), 5)
    with pytest.raises(UserError, match=r"strategy.draft_cfg=2 needs a schedule with a strength, not off"):
        check_loop(Cell(loop, choose("cfg_schedule", "off"), **parts), 5)
