"""Paired differences between two sets of samples, and means by group. Computes; shows nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.quantities import Metric, metrics, tabled
from sdvar_exp.metrics.statistics import Interval, mean_interval, ratio_interval, unit_means
from sdvar_exp.report.source import numbers, values_of, with_rates
from sdvar_exp.words import choices_text, did_you_mean

DIFFERENCE_COLUMNS = ("metric", "a", "b", "difference", "low", "high", "n")


def compared() -> dict[str, Metric]:
    """Metrics that `diff` compares, by name: all that have a mean over units, those against the own baseline last."""
    means = ("mean", "geometric", "count")
    plain = [m for m in _closest_first(metrics()) if m.average in means and m.name != "speedup_with_vae"]
    return {m.name: m for m in (*plain, *(m.against_baseline() for m in plain if m.relative))}


def _closest_first(some: Iterable[Metric]) -> list[Metric]:
    """Sort key: how far the images move, then what it costs."""
    return sorted(some, key=lambda m: not m.measured)


def paired_differences(a: pd.DataFrame, b: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """One row per metric, columns `DIFFERENCE_COLUMNS`: means of both over the common units, and of b − a with its interval.

    Rows are paired by `pair`, which names the cell, and by label and seed. Cells share the noise of a unit, so the differences
    of a unit are averaged over the cells first and n counts units; those that some pair of cells lacks are left out. Ratios
    are geometric means, and their difference is b ÷ a. Raises ValueError where a cell has a unit twice.
    """
    sides = (with_rates(a), with_rates(b))
    every = sides[0].columns.union(sides[1].columns)
    left, right = (side.reindex(columns=every) for side in sides)
    both = left.merge(right, on=["pair", "label", "seed"], suffixes=("_a", "_b"), validate="one_to_one")
    rows = []
    for m in compared().values():
        if m.name not in every or both[[f"{m.name}_a", f"{m.name}_b"]].isna().all(axis=None):
            continue
        left, right = (values_of(both, m, end) for end in ("_a", "_b"))
        if m.ratio:
            left, right = np.log(left), np.log(right)
        there = np.isfinite(left) & np.isfinite(right)
        found = [_pooled(both.assign(cell=both["pair"]), v.where(there), level) for v in (left, right, right - left)]
        if not found[0].n:
            continue
        interval = found[2]
        values = [found[0].mean, found[1].mean, interval.mean, interval.low, interval.high]
        if m.ratio:
            values = [None if v is None else float(np.exp(v)) for v in values]
        rows.append((m.name, *values, interval.n))
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def grouped(frame: pd.DataFrame, by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """One row per combination of the columns `by`, in order of appearance: cells, units, means with intervals.

    units: images (label, seed), whatever number of cells has them; see `pooled`. Speed-ups are geometric means.
    Raises `UserError` for an unknown column.
    """
    if not by:
        raise UserError("--group names no column; write e.g. --group strategy,label")
    for column in by:
        if column not in frame:
            known = list(map(str, frame.columns))
            near = did_you_mean(column, known, choices_text(known, "columns are"))
            raise UserError(f"there is no column {column!r} to group by{near}")
    rows = []
    for values, part in with_rates(frame).groupby(list(by), sort=False, dropna=False):
        units = len(part[["label", "seed"]].drop_duplicates())
        row = dict(zip(by, values, strict=True)) | {"cells": part["cell"].nunique(), "units": units}
        for m in _closest_first(tabled()):
            interval = pooled(part, m, level)
            row |= {m.name: interval.mean, f"{m.name}_low": interval.low, f"{m.name}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def pooled(rows: pd.DataFrame, metric: Metric, level: float = 0.95) -> Interval:
    """Mean of a metric over the units of rows of several cells, with its interval; geometric for ratios.

    Averaged over the cells within each unit first (`unit_means`): cells that share noise are no independent draws. Labels are
    strata. n is the number of units that all cells have which have any value.
    """
    values = numbers(rows[metric.name]) if metric.name in rows else pd.Series(np.nan, rows.index)
    return _pooled(rows, np.log(values) if metric.ratio else values, level, metric.ratio)


def _pooled(rows: pd.DataFrame, values: pd.Series, level: float, ratio: bool = False) -> Interval:
    means, labels = unit_means(values.to_numpy(), rows["cell"], rows["label"], rows["seed"])
    return (ratio_interval if ratio else mean_interval)(means, labels, level)  # type: ignore[arg-type]
