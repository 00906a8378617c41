"""Numbers that a plan is optimised for: means over its own cells of columns of the summary or of `quality`."""

from __future__ import annotations

from itertools import product

import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.quantities import OF_SETS, metric
from sdvar_exp.plan import Plan
from sdvar_exp.report.source import own_rows
from sdvar_exp.report.summary import summarise


def objective_of(plan: Plan) -> float | tuple[float, ...] | None:
    """The plan's `objective` over the units that lie on disk: a number, one for each name of a list, None if it names none.

    Raises `UserError` where one has no value, e.g. a speed-up of a plan that times nothing.
    """
    asked = plan.settings.objective
    if asked is None:
        return None
    names = (asked,) if isinstance(asked, str) else asked
    found = _of_sets(plan, [name for name in names if name in OF_SETS])
    found |= _of_summary(plan, [name for name in names if name not in OF_SETS])
    return found[asked] if isinstance(asked, str) else tuple(found[name] for name in names)


def _of_summary(plan: Plan, names: list[str]) -> dict[str, float]:
    """Means of columns of the summary over the plan's cells, in its own units."""
    if not names:
        return {}
    from sdvar_exp.store import load_tables

    summary = summarise(own_rows(load_tables(plan.folder, [p.cell.id for p in plan.cells], stages=False), plan))
    out = {}
    for name in names:
        values = pd.to_numeric(summary[name]).astype(float)
        if values.empty or values.isna().any():
            hint = "; time some units: timing.units=8" if metric(name).timed else ""
            if hint and summary["contended"].any():
                hint = ": images were timed only beside another process of this project; the same command measures them again"
            raise UserError(f"objective={name} has no value in {plan.folder}{hint}")
        out[name] = float(values.mean())
    return out


def _of_sets(plan: Plan, names: list[str]) -> dict[str, float]:
    """Means of quantities of sets over the plan's cells, each of the plan's own units."""
    if not names:
        return {}
    from sdvar_exp.report.quality import quality_value, shipped_real
    from sdvar_exp.store.features import read_features

    found = read_features(plan.folder, set(product(plan.labels, plan.seeds)))
    cells = [found.get(planned.cell.id) for planned in plan.cells]
    if not cells or any(cell is None for cell in cells):
        raise UserError(f"objective={names[0]} has no value in {plan.folder}: there are no features of its images")
    there = [(cell, shipped_real(cell.digest)) for cell in cells if cell is not None]
    return {name: float(sum(quality_value(name, *one) for one in there) / len(there)) for name in names}
