"""`seeds=until`: looks at the ledger, stops when it is known, goes on after a kill and decides the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdvar_exp.config.study import parse_until
from sdvar_exp.errors import UserError
from sdvar_exp.metrics.sequential import boundaries, levels
from sdvar_exp.plan import Plan, Until
from sdvar_exp.runner.running import finish
from sdvar_exp.runner.running.until import present
from sdvar_exp.runner.running.work import Task
from sdvar_exp.store import load_tables
from sdvar_exp.store.manifest import planned_units, read_cells
from tests.engines.conftest import MakePlan, Run, records, stable
from tests.engines.fake import FakeBackend
from tests.store.making import make_cells


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run ends with is tested elsewhere."""
    monkeypatch.setattr(finish, "finish", lambda *_: True)


def until(plan: MakePlan, widths: dict[str, float], most: int = 64, **more: Any) -> Plan:
    return replace(plan(seeds=range(most), cells=make_cells()[:2], **more), until=Until(tuple(widths.items()), most))


def test_boundaries_are_those_of_the_literature() -> None:
    """Pocock-type spending, five equal looks, two-sided 5 %: the values that R's ldBounds (Lan-DeMets) gives."""
    assert boundaries((0.2, 0.4, 0.6, 0.8, 1.0)) == pytest.approx((2.4380, 2.4268, 2.4101, 2.3966, 2.3859), abs=1e-3)
    assert boundaries((1.0,)) == pytest.approx((1.95996,), abs=1e-4)
    assert levels((4,)) == pytest.approx((0.95,)) and all(level > 0.95 for level in levels((4, 6, 9)))
    for wrong in ((), (0.5, 0.5), (0.0, 1.0), (0.5, 1.1)):
        with pytest.raises(ValueError, match="increase within"):
            boundaries(wrong)


def test_looks_grow_by_a_half_and_end_at_the_most() -> None:
    assert Until((), 64).looks == (4, 6, 9, 14, 21, 32, 48, 64)
    assert Until((), 4).looks == (4,) and Until((), 5).looks == (4, 5)
    for most in range(4, 200):
        looks = Until((), most).looks
        assert looks[0] == 4 and looks[-1] == most and list(looks) == sorted(set(looks))


def test_what_until_may_say() -> None:
    assert parse_until({"pixel_mae": 0.002, "speedup": 1}, 8) == Until((("pixel_mae", 0.002), ("speedup", 1.0)), 64)
    assert parse_until({"pixel_mae": 0.002, "most": 8}, 0).most == 8
    for value, timed, message in [
        (None, 8, "seeds=until needs to know what for"),
        ({"most": 8}, 8, "seeds=until needs to know what for"),
        ({"pixel_mea": 0.1}, 8, "unknown quantity 'pixel_mea'; did you mean 'pixel_mae'"),
        ({"committed_per_call": 0.1}, 8, "unknown quantity"),
        ({"pixel_mae": 0}, 8, "half-width > 0"),
        ({"pixel_mae": True}, 8, "half-width > 0"),
        ({"pixel_mae": 0.1, "most": 3}, 8, "from 4 to"),
        ({"speedup": 0.1}, 0, "timing.units=0 does not measure"),
    ]:
        with pytest.raises(UserError, match=message):
            parse_until(value, timed)


WIDTHS = {"pixel_mae": 0.08}


class Killed(BaseException):
    """As sudden as a kill: nothing catches it."""


def test_it_stops_when_it_is_known_and_a_kill_changes_nothing(
    plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = (until(plan, WIDTHS, most=24, folder=name) for name in ("whole", "killed"))
    assert present(whole) == (whole, "nothing looked at yet")
    code, text = run(whole)
    done = load_tables(whole.folder).samples["seed"].nunique()
    assert code == 0 and 4 < done < 24, text
    assert "seeds until pixel_mae ± 0.08 in every cell; looks after 4, 6, 9, 14, 24 seeds" in text
    assert "look 1 of 5, 4 seeds: " in text and "widest: " in text and "all 1 half-width reached" in text
    assert all(len(planned_units(about)) == 2 * done for about in read_cells(whole.folder).values())
    narrow, look = present(whole)
    assert narrow.seeds == tuple(range(done)) and look in text
    before = FakeBackend.evaluate

    def evaluate(self: FakeBackend, task: Task, shared: Any) -> Any:
        if task.units[0].seed == 5:
            raise Killed
        return before(self, task, shared)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(FakeBackend, "evaluate", evaluate)
        run(killed)
    assert "look 1 of 5" in present(killed)[1] and len(present(killed)[0].seeds) == 24, "not decided"
    assert run(killed)[0] == 0 and stable(killed) == stable(whole)
    sessions = records(whole, "session")
    assert look in run(whole)[1] and records(whole, "session") == sessions, "decided: nothing is begun"


@pytest.mark.long
def test_a_pool_decides_the_same(plan: MakePlan, run: Run) -> None:
    alone, pool = (until(plan, WIDTHS, most=24, folder=engine, engine=engine) for engine in ("inprocess", "pool"))
    assert run(alone)[0] == run(pool)[0] == 0 and stable(alone) == stable(pool)


@pytest.mark.long
def test_the_most_seeds_end_it_and_a_speed_up_is_timed_at_every_look(plan: MakePlan, run: Run) -> None:
    asked = until(plan, {"pixel_mae": 1e-9, "speedup": 0.1}, most=5, timing=1)
    code, text = run(asked)
    assert code == 0 and "look 2 of 2, 5 seeds: 0 of 2 half-widths reached; widest: " in text
    assert "wanted ± 1e-09; 5 seeds are the most" in text or "speedup of" in text
    assert len(records(asked, "timing")) == 2 * 2 * 5 * 2, "every image of each cell, although timing.units=1"
    enough = until(plan, {"speedup": 0.1}, most=64, timing=1, folder="enough")
    assert "look 5 of 8, 21 seeds" not in run(enough)[1], "equal times count as known from twenty images on"
    assert load_tables(enough.folder).samples["seed"].nunique() == 14
