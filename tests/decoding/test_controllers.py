"""γ controllers and guidance schedules: literal traces, bounds, and that they hold no state."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding.gamma import GammaContext, next_gamma
from sdvar_exp.decoding.gamma.cost_model import locate, read
from sdvar_exp.decoding.guidance import proposal_weights, weights
from sdvar_exp.decoding.options import check_loop
from sdvar_exp.decoding.records import Round
from sdvar_exp.errors import UserError
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import Choice, choose, names
from tests.decoding.cells import loop, run_watched
from tests.support import FakePair

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


@pytest.mark.parametrize(
    ("name", "params", "passes", "expected"),
    [
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
        # stages of 1, 4, 9, 16, 25, … tokens: 1 + 4 + 9 + 16 = 30
        ("token_budget", {"tokens": 30}, YES, [4, 1, 1, 1, 1, 1, 1]),
        ("token_budget", {"tokens": 29}, YES, [3, 1, 1, 1, 1, 1, 1, 1]),
        ("token_budget", {"tokens": 30}, NO, [4, 3, 2, 1, 1, 1, 1, 1, 1, 1]),
        ("token_budget", {"tokens": 1}, YES, [1] * 10),
        ("token_budget", {"tokens": 385}, YES, [10]),
        # pass rate 0.7 → 0.79 → 0.8971 → 0.9879: 0.7² < ½, 0.79³ < ½, 0.8971⁷ < ½
        ("acceptance_ema", {}, YES, [1, 2, 6, 1]),
        ("acceptance_ema", {}, NO, [1] * 10),
        ("acceptance_ema", {"prior": 0.0, "decay": 0.0, "threshold": 0.0}, YES, [10]),
        # 0.9 → 0.45 → 0.725: 0.9⁷ < ½ < 0.9⁶, 0.45 < ½ still proposes one, 0.725³ < ½
        ("acceptance_ema", {"prior": 0.9, "decay": 0.5}, [False, *YES], [6, 1, 2, 6]),
        ("acceptance_ema", {"prior": 1.0, "threshold": 1.0, "largest": 3}, YES, [3, 3, 3, 1]),
        ("acceptance_ema", {"prior": 1.0, "threshold": 1.0, "largest": 3}, [True, False, *YES], [3, 1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_traces(name: str, params: dict[str, Any], passes: list[bool], expected: list[int]) -> None:
    assert replay(choose("gamma", name, **params), passes) == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(name=st.sampled_from(names("gamma")), passes=st.lists(st.booleans(), min_size=10, max_size=10), until=st.integers(1, 10))
def test_any_controller_ends_and_never_proposes_more_than_is_left(name: str, passes: list[bool], until: int) -> None:
    choice = choose("gamma", name)
    trace = replay(choice, passes, until)
    assert 1 <= len(trace) <= until
    assert all(0 <= g <= until for g in trace)
    assert replay(choice, passes, until) == trace  # no state is left behind


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("fixed", {"value": 0}, "gamma.value must be ≥ 1, got 0"),
        ("table", {"values": ()}, r"gamma.values must be integers ≥ 0, got \[\]"),
        ("table", {"values": (1, -1)}, r"gamma.values must be integers ≥ 0, got \[1, -1\]"),
        ("aimd", {"start": 0}, "gamma needs 1 ≤ smallest ≤ start ≤ largest, got 1, 0, 10"),
        ("aimd", {"start": 3, "largest": 2}, "gamma needs 1 ≤ smallest ≤ start ≤ largest, got 1, 3, 2"),
        ("aimd", {"decrease": "slowly"}, "gamma.decrease must be one of minus_one, halve, got 'slowly'"),
        ("fixed", {"gamma": 2}, "gamma=fixed has no parameter 'gamma'; it has value"),
    ],
)
def test_bad_values(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose("gamma", name, **params)


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("linear", {"cfg": 1.5}, [0, 0.375, 0.75, 1.125, 1.5]),
        ("constant", {"cfg": 2.0}, [2, 2, 2, 2, 2]),
        ("cosine", {"cfg": 2.0}, [0, 1 - math.sqrt(0.5), 1, 1 + math.sqrt(0.5), 2]),
        ("power", {"cfg": 1.6, "exponent": 2}, [0, 0.1, 0.4, 0.9, 1.6]),
        ("interval", {"cfg": 1.5, "first": 1, "last": 3}, [0, 1.5, 1.5, 1.5, 0]),
        ("off", {}, [0, 0, 0, 0, 0]),
    ],
)
def test_schedules(name: str, params: dict[str, Any], expected: list[float]) -> None:
    assert weights(choose("cfg_schedule", name, **params), 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("power", {"exponent": 0}, "cfg_schedule.exponent must be > 0, got 0"),
        ("linear", {"cfg": -0.1}, "cfg_schedule.cfg must be ≥ 0, got -0.1"),
        ("cosine", {"cfg": math.inf}, "cfg_schedule.cfg must be ≥ 0, got inf"),
        ("interval", {"first": 3, "last": 2}, "cfg_schedule needs 0 ≤ first ≤ last, got first=3, last=2"),
    ],
)
def test_bad_schedules(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose("cfg_schedule", name, **params)
    weights(choose("cfg_schedule", "power", cfg=0, exponent=1e-9), 2)
    weights(choose("cfg_schedule", "interval", first=0, last=0), 2)


PROFILE = {"target_call": 10, "target_row": 1, "draft_call": 1, "draft_row": 0, "pass_rate": [0.5]}


def profile(tmp_path: Path, **changes: Any) -> str:
    """A profile's file; keys changed to None are left out."""
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({k: v for k, v in {**PROFILE, **changes}.items() if v is not None}))
    return str(file)


@pytest.mark.parametrize(
    ("changes", "largest", "passes", "expected"),
    [
        # at stage 0: 1/12, 1.5/17, 1.75/27: two; at stage 1: 1/15, 1.5/25: one; later stages cost more still
        ({}, 10, YES, [2, 1, 1, 1, 1, 1, 1, 1, 1]),
        ({}, 10, NO, [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        # one call whatever is in it: as many as may be
        ({"target_row": 0, "draft_call": 0, "pass_rate": [1]}, 4, YES, [4, 4, 2]),
        # nothing passes behind stage 1, ties go to the smallest γ
        ({"target_row": 0, "draft_call": 0, "pass_rate": [1, 0]}, 10, YES, [2, 1, 1, 1, 1, 1, 1, 1, 1]),
        # only rows of the draft and calls of the target cost; at stage 0: 1/10.5, 1.9/12.5, 2.71/17, 3.439/25; at 3: 1/18,
        # 1.9/30.5, 2.71/48.5; at 5: 1/28, 1.9/52.5, 2.71/84.5; at 7: 1/42, 1.9/82.5
        ({"target_row": 0, "draft_call": 0, "draft_row": 0.5, "pass_rate": [0.9]}, 10, YES, [3, 2, 2, 1, 1, 1]),
    ],
)
def test_cost_model(tmp_path: Path, changes: dict[str, Any], largest: int, passes: list[bool], expected: list[int]) -> None:
    choice = choose("gamma", "cost_model", profile=profile(tmp_path, **changes), largest=largest)
    assert replay(choice, passes) == expected
    if not changes:
        assert next_gamma(choice, GammaContext(0, 10, TEN)) == (2, f"{1.5 / 17:.4g} stages per unit of time")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("[1]", "must be a JSON object with target_call, draft_call"),
        (b"\xff\xfe{", "is not JSON: "),
        ({"target_call": -1}, "target_call must be a number ≥ 0, got -1"),
        ({"draft_row": "2"}, "draft_row must be a number ≥ 0"),
        ({"draft_call": True}, "draft_call must be a number ≥ 0, got True"),
        ({"target_row": float("nan")}, "target_row must be a number ≥ 0, got nan"),
        ({"target_row": None}, "lacks target_row"),
        ({"target_row": 0, "target_call": 0}, "target_call and target_row must not both be 0"),
        ({"pass_rate": []}, r"pass_rate must be a list of numbers in \[0, 1\], got \[\]"),
        ({"pass_rate": [1.5]}, r"pass_rate must be a list of numbers in \[0, 1\], got \[1.5\]"),
        ({"pass_rate": 0.5}, r"pass_rate must be a list of numbers in \[0, 1\], got 0.5"),
        ({"stages": 10}, "10 stages need as many pass rates, got 1"),
        ({"rows": 3}, "has unknown keys: rows; it takes target_call"),
    ],
)
def test_bad_profiles(tmp_path: Path, content: Any, message: str) -> None:
    if isinstance(content, dict):
        file = Path(profile(tmp_path, **content))
    else:
        file = tmp_path / "costs.json"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"^gamma.profile {re.escape(str(file))}:? {message}") as error:
        choose("gamma", "cost_model", profile=str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["nowhere", "nowhere.json", "some/where"])
def test_a_missing_profile(missing: str) -> None:
    wanted = f"gamma.profile {missing} is not a file; give a path .* shipped profile: embedded, generic"
    with pytest.raises(UserError, match=wanted):
        choose("gamma", "cost_model", profile=missing)


def test_a_profile_is_found_by_its_name_or_path() -> None:
    Path("sub").mkdir()
    for path in (Path("own.json"), Path("sub/own")):
        path.write_text(json.dumps(PROFILE))
        assert locate(str(path)) == path and choose("gamma", "cost_model", profile=str(path))
    assert locate("generic").name == "generic.json" and locate("generic").parent.is_dir()


def test_a_profile_for_other_pyramids_is_refused(tmp_path: Path) -> None:
    parts = {"mask": choose("mask", "block_causal"), "acceptance": choose("acceptance", "exact")}
    for rates, fits in (([0.5] * 5, True), ([0.5] * 10, False)):
        gamma = choose("gamma", "cost_model", profile=profile(tmp_path, pass_rate=rates, stages=len(rates)))
        cell = Cell(choose("strategy", "dynamic_gamma"), gamma=gamma, **parts)
        if fits:
            check_loop(cell, 5)
        else:
            with pytest.raises(UserError, match="is for 10 stages, this model has 5: use another profile"):
                check_loop(cell, 5)
    check_loop(Cell(choose("strategy", "dynamic_gamma"), gamma=choose("gamma", "cost_model"), **parts), 5)


def test_the_content_of_a_profile_is_part_of_the_cell(tmp_path: Path) -> None:
    """Another content is another cell at once, and a cell never decodes with a content that it was not named for."""
    cells = []
    for rate in (0.5, 0.6):
        gamma = choose("gamma", "cost_model", profile=profile(tmp_path, pass_rate=[rate], target_row=0))
        cells.append(Cell(choose("strategy", "dynamic_gamma"), gamma=gamma))
        assert replay(gamma, YES) == replay(choose("gamma", "cost_model", profile=gamma.params.profile), YES)
    assert cells[0].id != cells[1].id
    old, new = (cell.gamma.params for cell in cells if cell.gamma)
    assert (old.profile, len(old.digest)) == (new.profile, 16)
    with pytest.raises(UserError, match=f"has changed since its digest {old.digest} was noted, now it is {new.digest}"):
        choose("gamma", "cost_model", profile=old.profile, digest=old.digest)
    Path(new.profile).write_text(json.dumps(PROFILE))
    read.cache_clear()
    with pytest.raises(UserError, match="was changed while it was in use: start again"):
        replay(Choice("gamma", "cost_model", new), YES)


def test_the_measured_profile_of_the_embedded_pair() -> None:
    found = read("embedded", choose("gamma", "cost_model", profile="embedded").params.digest)
    assert "Measured by python -m benchmarks.profile" in found["note"] and found["stages"] == len(found["pass_rate"]) == 10
    assert found["target_call"] > found["draft_call"] and found["target_row"] > found["draft_row"]


def test_the_shipped_profile() -> None:
    found = read("generic", choose("gamma", "cost_model").params.digest)
    assert "Not measured" in found["note"]
    assert len(found["pass_rate"]) == 10 and "stages" not in found
    assert replay(choose("gamma", "cost_model"), YES) != replay(choose("gamma", "cost_model", largest=1), YES)


@pytest.mark.parametrize(
    ("name", "params", "draft_cfg", "expected"),
    [
        ("linear", {"cfg": 1.5}, "same", [0, 0.375, 0.75, 1.125, 1.5]),
        ("linear", {"cfg": 1.5}, "off", [0, 0, 0, 0, 0]),
        ("linear", {"cfg": 1.5}, 3.0, [0, 0.75, 1.5, 2.25, 3]),  # the same schedule at another strength
        ("constant", {"cfg": 2.0}, 0.5, [0.5] * 5),
        ("power", {"cfg": 1.6, "exponent": 2}, 3.2, [0, 0.2, 0.8, 1.8, 3.2]),
        ("interval", {"cfg": 1.5, "first": 1, "last": 3}, 4.0, [0, 4, 4, 4, 0]),
        ("interval", {"cfg": 1.5, "first": 1, "last": 3}, "off", [0] * 5),
        ("cosine", {"cfg": 2.0}, 1.0, [0, (1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2, 1]),
        ("off", {}, "same", [0] * 5),
    ],
)
def test_guidance_of_proposals(name: str, params: dict[str, Any], draft_cfg: Any, expected: list[float]) -> None:
    pair = FakePair((1, 2, 3, 4, 5))
    schedule = choose("cfg_schedule", name, **params)
    for until in (None, 3):  # in the tail of `hybrid` the draft is guided as the cell says
        d = run_watched(pair, loop(gamma=2, schedule=schedule, draft_cfg=draft_cfg, until=until), [Unit(3, 0)], lambda d: None)
        own = proposal_weights(schedule, 5, draft_cfg)
        assert own == pytest.approx(expected)
        assert d.weights == weights(schedule, 5)
        assert d.target.weights == tuple(
            t if k < (until or 5) else 0.0 for k, t in enumerate(d.weights)
        )  # the tail has no target
        assert d.draft.weights == (own if until is None else d.weights)


def test_a_pyramid_of_one_stage_has_a_weight() -> None:
    for name in names("cfg_schedule"):
        assert len(weights(choose("cfg_schedule", name), 1)) == 1


def test_a_cell_named_by_words_is_the_cell_named_by_members() -> None:
    """Plain words become enum members, so that they mean what they say and hash the same."""
    from sdvar_exp.decoding.options import OnReject, Stale

    words = choose("strategy", "parallel_v1", on_reject="continue", draft_stale="keep")
    assert words.params.on_reject is OnReject["continue"]
    assert words.params.draft_stale is Stale.keep
    assert words == Choice("strategy", "parallel_v1", replace(words.params, on_reject=OnReject["continue"]))
    with pytest.raises(UserError, match=r"strategy.on_reject must be one of correct, continue, redraft, got 'kontinue'"):
        choose("strategy", "parallel_v1", on_reject="kontinue")


def test_a_strength_for_the_draft_needs_a_schedule_that_has_one() -> None:
    strategy = choose("strategy", "parallel_v1", draft_cfg=2.0)
    parts = {
        "mask": choose("mask", "block_causal"),
        "acceptance": choose("acceptance", "exact"),
        "gamma": choose("gamma", "fixed"),
    }
    check_loop(Cell(strategy, **parts), 5)
    with pytest.raises(UserError, match=r"strategy.draft_cfg=2 needs a schedule with a strength, not off"):
        check_loop(Cell(strategy, choose("cfg_schedule", "off"), **parts), 5)
