"""The order of work, without any model."""

from __future__ import annotations

from collections.abc import Callable

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.plan import Plan, Timing
from sdvar_exp.runner.running.work import groups, timings
from tests.runner.conftest import CELLS, loop, simple

MakePlan = Callable[..., Plan]


def keys(cell: Cell, *units: tuple[int, int]) -> set[tuple[str, int, int]]:
    return {(cell.id, *unit) for unit in units}


def all_keys(plan: Plan) -> set[tuple[str, int, int]]:
    return {(p.cell.id, u.label, u.seed) for p in plan.cells for u in plan.units}


def test_first_units_are_spread_over_labels_and_more_seeds_come_last(plan: MakePlan) -> None:
    few, more = plan(seeds=(0, 1)).units, plan(seeds=(0, 1, 2)).units
    assert few[:3] == (Unit(0, 0), Unit(3, 0), Unit(0, 1))
    assert more[: len(few)] == few


def test_all_cells_of_one_unit_share_a_group(plan: MakePlan) -> None:
    found = groups(plan(), set())
    assert [g.units for g in found] == [(Unit(0, 0),), (Unit(3, 0),), (Unit(0, 1),), (Unit(3, 1),)]
    assert [t.planned.name for t in found[0].tasks] == list(CELLS)


def test_what_is_done_is_left_out(plan: MakePlan) -> None:
    sequential, exact = CELLS["sequential"], CELLS["parallel_v1 exact γ=2"]
    small = plan({"sequential": sequential, "exact": exact}, seeds=(0,))
    found = groups(small, keys(sequential, (0, 0), (3, 0)) | keys(exact, (0, 0)))
    assert [(g.units, [t.planned.name for t in g.tasks]) for g in found] == [((Unit(3, 0),), ["exact"])]
    assert groups(small, all_keys(small)) == []


def test_batches_are_fixed_by_the_plan_and_pending_as_a_whole(plan: MakePlan) -> None:
    batched = loop(batch=3)
    small = plan({"batched": batched})
    units = [g.units for g in groups(small, keys(batched, (0, 0), (3, 0)))]
    assert units == [(Unit(0, 0), Unit(3, 0), Unit(0, 1)), (Unit(3, 1),)]


def test_batches_come_after_the_baselines_that_they_need(plan: MakePlan) -> None:
    small = plan({"batched": loop(batch=2), "sequential": simple("sequential")})
    assert [len(g.units) for g in groups(small, set())] == [1, 1, 1, 1, 2, 2]


def test_timing_takes_the_first_units_of_each_cell_and_what_is_missing(plan: MakePlan) -> None:
    cell = CELLS["sequential"]
    small = plan({"sequential": cell}, timing=Timing(3, 2))
    work = timings(small, all_keys(small), {(cell.id, 3, 0): {0}})
    assert [(units, [t.repeats for t in tasks]) for units, tasks in work] == [
        ((Unit(0, 0),), [(0, 1)]),
        ((Unit(3, 0),), [(1,)]),
        ((Unit(0, 1),), [(0, 1)]),
    ]
    assert [tasks[0].index for _, tasks in work] == [0, 1, 2]


def test_units_that_failed_are_not_timed(plan: MakePlan) -> None:
    cell = CELLS["sequential"]
    small = plan({"sequential": cell}, timing=Timing(4, 1))
    assert [units for units, _ in timings(small, keys(cell, (3, 1)), {})] == [(Unit(3, 1),)]
    assert timings(plan({"sequential": cell}), keys(cell, (3, 1)), {}) == [], "timing.units=0 times nothing"
