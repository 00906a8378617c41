"""`seeds=until`: seeds are added, look by look, until every named quantity of every cell is known as narrowly as asked for.

What a look decides follows from the ledger's rows of its seeds alone, so that a sweep that was killed decides the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sdvar_exp.plan import Plan
from sdvar_exp.runner.running.progress import say
from sdvar_exp.words import count, missing

if TYPE_CHECKING:
    from sdvar_exp.runner.running.sweep import Sweep
    from sdvar_exp.store import Tables

CONSTANT_FROM = 20
"""Images without any spread from which on a quantity counts as known."""


@dataclass(frozen=True)
class Look:
    """Result of one look. seeds: how many there were. wide: half-widths that are too wide, worst first, in words."""

    number: int
    seeds: int
    known: int
    wide: tuple[str, ...]


def narrowed(plan: Plan, seeds: int) -> Plan:
    """The plan with its first seeds; where a speed-up is to be known, all of their images are timed."""
    plan = replace(plan, seeds=plan.seeds[:seeds])
    if plan.until is None or not plan.until.timed:
        return plan
    timing = replace(plan.settings.timing, units=max(plan.settings.timing.units, len(plan.units)))
    return replace(plan, settings=replace(plan.settings, timing=timing))


def first(plan: Plan) -> Plan:
    """The plan of the first look; a plan of fixed seeds as it is."""
    return plan if plan.until is None else narrowed(plan, plan.until.looks[0])


def looks(sweep: Sweep, whole: Plan) -> Iterator[bool]:
    """Once for each look, with the backend's plan widened to it, until all is known; whether to time the images by then.

    whole: the plan with the most seeds. Once, and without times, for a plan of fixed seeds.
    """
    until = whole.until
    if until is None:
        yield False
        return
    for number, seeds in enumerate(until.looks):
        if number:
            wider = narrowed(whole, seeds)
            sweep.backend.plan = replace(
                sweep.backend.plan,
                seeds=wider.seeds,
                settings=replace(sweep.backend.plan.settings, timing=wider.settings.timing),
            )
            sweep.study.add_cells(sweep.backend.plan)
            sweep.backend.begin(sweep.study, sweep.attempts)
        yield until.timed
        if sweep.stopped:
            return
        from sdvar_exp.store.tables import load_tables

        found = look(load_tables(whole.folder, stages=False), sweep.backend.plan, number)
        say(sweep.console, said(found, whole))
        if not found.wide:
            return


def look(tables: Tables, plan: Plan, number: int) -> Look:
    """Judge a look from the rows of its plan: each half-width in each cell that is not a reference itself.

    A quantity that no image of a cell has (a rate of acceptance without a draft) is not asked of that cell, as long as
    another one has it.
    """
    from sdvar_exp.metrics.sequential import levels
    from sdvar_exp.report import summarise
    from sdvar_exp.report.source import own_rows

    until = plan.until
    assert until is not None
    summary = summarise(own_rows(tables, plan), level=levels(until.looks)[number])
    rows = summary[~summary["is_baseline"].astype(bool)].to_dict("records")
    wide: list[tuple[float, str]] = []
    known = 0
    for name, wanted in until.widths:
        halves = [(row, _half(row, name)) for row in rows]
        anywhere = any(half is not None for _, half in halves)
        for row, half in halves:
            if anywhere and missing(row[name]):
                continue
            if half is not None and half <= wanted:
                known += 1
                continue
            text = "not known" if half is None else f"± {half:.2g}"
            wide.append(
                (float("inf") if half is None else half / wanted, f"{name} of {row['name']} {text}, wanted ± {wanted:g}")
            )
    return Look(number, len(plan.seeds), known, tuple(text for _, text in sorted(wide, key=lambda pair: -pair[0])))


def _half(row: dict[Any, Any], name: str) -> float | None:
    """The longer side of an interval; None where there is none yet, or where too few images agree to trust that all do."""
    mean, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if any(map(missing, (mean, low, high))):
        return None
    images = row["timed"] if name == "speedup" else row["n"]
    return None if low == high and images < CONSTANT_FROM else float(max(mean - low, high - mean))


def said(found: Look, plan: Plan) -> str:
    """A look in one line."""
    until = plan.until
    assert until is not None
    total = found.known + len(found.wide)
    head = f"look {found.number + 1} of {len(until.looks)}, {count(found.seeds, 'seed')}: "
    if not found.wide:
        return head + f"all {count(total, 'half-width')} reached"
    end = f"; {until.most} seeds are the most" if found.seeds == until.most else ""
    return head + f"{found.known} of {count(total, 'half-width')} reached; widest: {found.wide[0]}{end}"


def present(plan: Plan) -> tuple[Plan, str]:
    """State of a study: the plan with the seeds that were enough, or with the most, and the present look in words."""
    from sdvar_exp.store.manifest import read_manifest
    from sdvar_exp.store.state import LedgerState
    from sdvar_exp.store.tables import load_tables

    until = plan.until
    assert until is not None
    if read_manifest(plan.folder) is None:
        return plan, "nothing looked at yet"
    ledger, text = LedgerState(plan.folder).update(), "nothing looked at yet"
    tables = load_tables(plan.folder, stages=False)
    for number, seeds in enumerate(until.looks):
        now = narrowed(plan, seeds)
        if any((p.id, unit.label, unit.seed) not in ledger.units for p in now.cells for unit in now.units):
            return plan, text
        found = look(tables, now, number)
        text = said(found, plan)
        if not found.wide:
            return now, text
    return plan, text
