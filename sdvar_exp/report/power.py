"""Number of labels × seeds that would show an effect, from the spread that a study's cells have within a label."""

from __future__ import annotations

import math

import pandas as pd
from scipy import stats

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.power import images_needed, power, seeds_needed, spread
from sdvar_exp.metrics.quantities import Metric, tabled
from sdvar_exp.report.source import Tables, by_unit, cells, of_cell
from sdvar_exp.words import choices_text, did_you_mean

__all__ = ["COLUMNS", "images_needed", "power_table"]

COLUMNS = (
    *("cell", "name", "n", "labels", "seeds", "freedom", "spread", "power_now"),
    *("at_labels", "needed", "needed_cautious", "images"),
)
CAUTION = 0.8
MOST_LABELS = 1_000_000
LEAST_RATIO = 0.5
"""Least effect that is taken for a ratio."""


def power_table(
    tables: Tables,
    metric: str,
    effect: float,
    *,
    against: str | None = None,
    wanted: float = 0.8,
    level: float = 0.95,
    labels: int | None = None,
) -> pd.DataFrame:
    """One row per cell with at least two units of one label, columns `COLUMNS`.

    effect: for `speedup` a ratio (1.05: five per cent), else a difference in the metric's unit. against: id of a cell;
    differences are then paired with its units, else taken from a fixed value (for `speedup`: the baseline). spread: within a
    label, of logarithms for `speedup`, known from `freedom` degrees of freedom. power_now: chance that as many units as the
    study has show the effect. needed: seeds per label at `at_labels` labels (those of the study, or `labels`) for power
    `wanted`; needed_cautious: the same with the upper 80 % bound of the spread, which few units know badly; images: needed ×
    at_labels. None: over a million.
    Raises `UserError` for an effect that is none, or a study in which no label has two values.
    """
    what = _known(metric)
    shift = _shift(what, effect)
    if not 0 < wanted < 1:
        raise UserError(f"power must lie in (0, 1), got {wanted}")
    if labels is not None and not 1 <= labels <= MOST_LABELS:
        raise UserError(f"labels must lie in 1 … {MOST_LABELS}, got {labels}")
    rows = []
    for cell in cells(tables).itertuples(index=False):
        if cell.cell == against or (against is None and cell.cell == cell.baseline):
            continue
        units = _units(tables, what, cell.cell, against)
        found = spread(units.to_numpy(), units.index.get_level_values("label").to_numpy()) if len(units) else None
        if found is None:
            continue
        sd, freedom = found
        own = int(units.index.get_level_values("label").nunique())
        at = labels or own
        cautious = sd * math.sqrt(freedom / stats.chi2.ppf(1 - CAUTION, freedom))
        needed = seeds_needed(shift, sd, at, wanted, level)
        rows.append(
            (
                cell.cell,
                cell.name,
                len(units),
                own,
                round(len(units) / own, 1),
                freedom,
                sd,
                power(shift, sd, own, max(1, len(units) // own), level),
                at,
                needed,
                seeds_needed(shift, cautious, at, wanted, level),
                None if needed is None else needed * at,
            )
        )
    if not rows:
        timed = "; speed-ups need timed units (timing.units)" if what.timed else ""
        raise UserError(f"no cell has two values of {metric} for one label, so that there is no spread to plan with{timed}")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _known(name: str) -> Metric:
    known = {m.name: m for m in (*tabled(), *(m.against_baseline() for m in tabled() if m.relative and not m.timed))}
    if name not in known:
        raise UserError(f"unknown metric {name!r}{did_you_mean(name, known, choices_text(known, 'use'))}")
    return known[name]


def _shift(metric: Metric, effect: float) -> float:
    if metric.ratio:
        if not (LEAST_RATIO <= effect < math.inf) or effect == 1:  # less is a share: half as fast takes as many as twice
            raise UserError(
                f"the effect on a {metric.plain_heading} is a ratio other than 1: 1.05 for five per cent; got {effect:g}"
            )
        return math.log(effect)
    if effect == 0 or not math.isfinite(effect):
        raise UserError(f"the effect must be a difference other than 0, got {effect}")
    return effect


def _units(tables: Tables, metric: Metric, cell: str, against: str | None) -> pd.Series:
    """Values by (label, seed), or differences to the other cell's; logarithms for a ratio."""
    values = [by_unit(of_cell(tables.samples, c), metric) for c in (cell, against) if c is not None]
    return values[0].dropna() if len(values) == 1 else (values[0] - values[1]).dropna()
