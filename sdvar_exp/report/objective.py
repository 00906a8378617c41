"""One number for what a plan is optimised for: the mean of a column of the summary over the plan's own cells."""

from __future__ import annotations

from dataclasses import fields, replace

import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.quantities import metric
from sdvar_exp.plan import Plan
from sdvar_exp.report.summary import summarise


def objective_of(plan: Plan) -> float | None:
    """The plan's `objective` over the units that lie on disk, None if it names none.

    Raises `UserError` where it has no value, e.g. a speed-up of a plan that times nothing.
    """
    name = plan.settings.objective
    if name is None:
        return None
    from sdvar_exp.store import load_tables

    tables = load_tables(plan.folder, [planned.cell.id for planned in plan.cells], stages=False)
    frames = {}
    for field in fields(tables):
        frame = getattr(tables, field.name)
        if isinstance(frame, pd.DataFrame) and "label" in frame:
            frames[field.name] = frame[frame["label"].isin(plan.labels) & frame["seed"].isin(plan.seeds)]
    values = pd.to_numeric(summarise(replace(tables, **frames))[name]).astype(float)
    if values.empty or values.isna().any():
        hint = "; time some units: timing.units=8" if metric(name).timed else ""
        raise UserError(f"objective={name} has no value in {plan.folder}{hint}")
    return float(values.mean())
