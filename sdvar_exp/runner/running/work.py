"""The units to be done, in order. Pure functions of the plan and of what the ledger has. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from sdvar_exp.cell import Cell, ModelSpec, Unit
from sdvar_exp.plan import Plan, PlannedCell
from sdvar_exp.store.state import UnitKey


@dataclass(frozen=True)
class Task:
    """Units of one cell that are decoded in lockstep: the smallest thing that is resumed."""

    planned: PlannedCell
    units: tuple[Unit, ...]

    @property
    def cell(self) -> Cell:
        return self.planned.cell

    @property
    def unit_keys(self) -> tuple[UnitKey, ...]:
        """(cell, label, seed) of every unit."""
        return tuple((self.planned.id, u.label, u.seed) for u in self.units)


@dataclass(frozen=True)
class Group:
    """Tasks of one model on the same units: they share noise."""

    model: ModelSpec
    units: tuple[Unit, ...]
    tasks: tuple[Task, ...]


def batches(units: Sequence[Unit], size: int) -> Iterator[tuple[Unit, ...]]:
    """Runs of `size` units; the last may be shorter."""
    return (tuple(units[i : i + size]) for i in range(0, len(units), size))


def groups(plan: Plan, done: Collection[UnitKey]) -> list[Group]:
    """Tasks with a unit that is not done, by model, then by batch size (baselines come before what they are for)."""
    units = plan.units
    tasks: dict[tuple[int, int, tuple[Unit, ...]], list[Task]] = {}
    models = list(dict.fromkeys(p.cell.model for p in plan.cells))
    for planned in plan.cells:
        place_of_model = models.index(planned.cell.model)
        for batch in batches(units, planned.cell.batch):
            task = Task(planned, batch)
            if any(key not in done and plan.asks(key) for key in task.unit_keys):
                tasks.setdefault((place_of_model, planned.cell.batch, batch), []).append(task)
    place = {unit: i for i, unit in enumerate(units)}
    keys = sorted(tasks, key=lambda key: (key[0], key[1], place[key[2][0]]))
    return [Group(models[key[0]], key[2], tuple(tasks[key])) for key in keys]


@dataclass(frozen=True)
class Timed:
    """A task to be timed: repeats that are missing. index: of the task in its cell's plan order."""

    task: Task
    index: int
    repeats: tuple[int, ...]


def timings(
    plan: Plan, done: Collection[UnitKey], timed: Mapping[UnitKey, Collection[int]]
) -> list[tuple[tuple[Unit, ...], list[Timed]]]:
    """The timings to be made, by units, so that all cells are measured on one image before the next.

    The first `timing.units` units of each cell in plan order, whole batches, all of their units done (a unit that failed
    is not timed). A batch is one measurement, kept under its first unit. timed: repeats that need not be measured again.
    """
    asked, units = plan.settings.timing, plan.units
    found: dict[tuple[Unit, ...], list[Timed]] = {}
    for planned in plan.cells:
        size = planned.cell.batch
        for index, batch in enumerate(islice(batches(units, size), asked.batches(len(units), size))):
            task = Task(planned, batch)
            missing = tuple(r for r in range(asked.repeats) if r not in timed.get(task.unit_keys[0], ()))
            if missing and all(key in done for key in task.unit_keys):
                found.setdefault(batch, []).append(Timed(task, index, missing))
    return list(found.items())
