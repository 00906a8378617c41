"""Paired differences between two sets of samples, and means by group. Computes; shows nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.statistics import mean_interval, ratio_interval
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


def paired_differences(a: pd.DataFrame, b: pd.DataFrame, keys: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """One row per metric, columns `DIFFERENCE_COLUMNS`: means of both over the common units, and of b − a with its interval.

    Units are paired by `keys` (label and seed, and what names the cell where there are several); strata of the interval are
    the labels of each cell. A unit in which either side has no value does not count. Raises ValueError for double keys.
    """
    both = with_rates(a).merge(with_rates(b), on=list(keys), suffixes=("_a", "_b"), validate="one_to_one")
    strata = both.groupby([k for k in keys if k != "seed"], sort=False).ngroup().to_numpy()
    rows = []
    for name in METRICS:
        if f"{name}_a" not in both or f"{name}_b" not in both:
            continue
        left, right = _number(both[f"{name}_a"]), _number(both[f"{name}_b"])
        there = (np.isfinite(left) & np.isfinite(right)).to_numpy()
        if not there.any():
            continue
        interval = mean_interval((right - left)[there].to_numpy(), strata[there], level)
        row = {"metric": name, "a": left[there].mean(), "b": right[there].mean(), "difference": interval.mean}
        rows.append({**row, "low": interval.low, "high": interval.high, "n": int(there.sum())})
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def grouped(frame: pd.DataFrame, by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """One row per combination of the columns `by`, in order of appearance: cells, units, means with intervals.

    Strata are the labels of each cell. speed-ups are geometric means. Raises `UserError` for an unknown column.
    """
    for column in by:
        if column not in frame:
            raise UserError(f"there is no column {column!r} to group by; columns are {', '.join(map(str, frame.columns))}")
    rows = []
    for values, part in with_rates(frame).groupby(list(by), sort=False, dropna=False):
        strata = part.groupby(["cell", "label"], sort=False).ngroup().to_numpy()
        row = dict(zip(by, values, strict=True)) | {"cells": part["cell"].nunique(), "n": len(part)}
        for name in GROUPED:
            numbers = _number(part[name]).to_numpy() if name in part else np.full(len(part), np.nan)
            there = np.isfinite(numbers)
            if name == "speedup":
                interval = ratio_interval(np.log(numbers[there]), strata[there], level)
            else:
                interval = mean_interval(numbers[there], strata[there], level)
            least, most = MEANS.get(name, (0, np.inf))
            ends = (None if v is None else float(np.clip(v, least, most)) for v in (interval.low, interval.high))
            row |= {name: interval.mean} | dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def _number(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values).astype(float)
