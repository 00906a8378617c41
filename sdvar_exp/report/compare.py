"""Paired differences between two sets of samples, and means by group. Computes; shows nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.statistics import Interval, mean_interval, ratio_interval, unit_means
from sdvar_exp.report.summary import MEANS

METRICS = (
    "pixel_mae",
    "pixel_l2",
    "psnr_db",
    "ssim",
    "correlation",
    "token_agreement",
    "fhat_cosine",
    "target_calls",
    "draft_calls",
    "target_token_forwards",
    "draft_token_forwards",
    "identical",
    "speedup",
    "latency_ms",
)
RATIOS = ("speedup",)
"""Metrics that are ratios: their means are geometric."""
DIFFERENCE_COLUMNS = ("metric", "a", "b", "difference", "low", "high", "n")
GROUPED = ("pixel_mae", "correlation", "token_agreement", "target_calls", "target_token_forwards", "speedup")


def with_rates(samples: pd.DataFrame) -> pd.DataFrame:
    """`samples` with token-forwards: rows through a model ÷ rows of that model decoding alone."""
    rates = {
        f"{who}_token_forwards": _number(samples[f"{who}_rows"]) / _number(samples[f"{who}_rows_alone"]).replace(0, np.nan)
        for who in ("target", "draft")
        if {f"{who}_rows", f"{who}_rows_alone"} <= set(samples)
    }
    return samples.assign(**rates)


def paired_differences(a: pd.DataFrame, b: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """One row per metric, columns `DIFFERENCE_COLUMNS`: means of both over the common units, and of b − a with its interval.

    Rows are paired by `pair`, which names the cell, and by label and seed. Cells share the noise of a unit, so the differences
    of a unit are averaged over the cells first and n counts units; those that some pair of cells lacks are left out. Ratios
    (`RATIOS`) are geometric means, and their difference is b ÷ a. Raises ValueError where a cell has a unit twice.
    """
    both = with_rates(a).merge(with_rates(b), on=["pair", "label", "seed"], suffixes=("_a", "_b"), validate="one_to_one")
    rows = []
    for name in METRICS:
        if f"{name}_a" not in both or f"{name}_b" not in both:
            continue
        left, right = (_number(both[f"{name}{end}"]) for end in ("_a", "_b"))
        if name in RATIOS:
            left, right = np.log(left), np.log(right)
        there = np.isfinite(left) & np.isfinite(right)
        found = [pooled(both.assign(cell=both["pair"], x=v.where(there)), "x", level) for v in (left, right, right - left)]
        if not found[0].n:
            continue
        interval = found[2]
        values = [found[0].mean, found[1].mean, interval.mean, interval.low, interval.high]
        if name in RATIOS:
            values = [None if v is None else float(np.exp(v)) for v in values]
        rows.append((name, *values, interval.n))
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def grouped(frame: pd.DataFrame, by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """One row per combination of the columns `by`, in order of appearance: cells, units, means with intervals.

    units: images (label, seed), whatever number of cells has them; see `pooled`. Speed-ups are geometric means.
    Raises `UserError` for an unknown column.
    """
    for column in by:
        if column not in frame:
            raise UserError(f"there is no column {column!r} to group by; columns are {', '.join(map(str, frame.columns))}")
    rows = []
    for values, part in with_rates(frame).groupby(list(by), sort=False, dropna=False):
        units = len(part[["label", "seed"]].drop_duplicates())
        row = dict(zip(by, values, strict=True)) | {"cells": part["cell"].nunique(), "units": units}
        for name in GROUPED:
            interval = pooled(part, name, level)
            least, most = MEANS.get(name, (0, np.inf))
            ends = (None if v is None else float(np.clip(v, least, most)) for v in (interval.low, interval.high))
            row |= {name: interval.mean} | dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def pooled(rows: pd.DataFrame, column: str, level: float = 0.95) -> Interval:
    """Mean of a column over the units of rows of several cells, with its interval; geometric for `RATIOS`.

    Averaged over the cells within each unit first (`unit_means`): cells that share noise are no independent draws. Labels are
    strata. n is the number of units that all cells have which have any value.
    """
    values = _number(rows[column]).to_numpy() if column in rows else np.full(len(rows), np.nan)
    if column in RATIOS:
        values = np.log(values)
    means, labels = unit_means(values, rows["cell"], rows["label"], rows["seed"])  # type: ignore[arg-type]
    return (ratio_interval if column in RATIOS else mean_interval)(means, labels, level)  # type: ignore[arg-type]


def _number(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values).astype(float)
