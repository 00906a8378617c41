"""One row per cell: means with 95 % intervals, counts, and what they are compared with.

Knows the tables of the results store; every rate of the report is derived here, from stored counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.metrics.statistics import Interval, identical_bound, mean_interval, ratio_interval
from sdvar_exp.report.source import Tables, cells, noise_rows, of_cell, true

LEVEL = 0.95
MEANS = {
    "target_calls": (0, np.inf),
    "target_token_forwards": (0, np.inf),
    "draft_token_forwards": (0, np.inf),
    "pixel_mae": (0, 1),
    "correlation": (-1, 1),
    "token_agreement": (0, 1),
}
"""Columns that get a mean and an interval, with the range that the interval is cut to."""

COLUMNS = (
    "cell", "name", "strategy", "lossless", "baseline", "is_baseline", "n", "labels", "compared", "failed",
    *(f"{name}{end}" for name in MEANS for end in ("", "_low", "_high")),
    "committed_per_call", "identical", "different_bound", "near_ties",
    "speedup", "speedup_low", "speedup_high", "speedup_with_vae", "latency_ms", "baseline_latency_ms",
    "timed", "contended", "noise_pixel_mae", "noise_correlation", "noise_pairs",
)  # fmt: skip


def summarise(tables: Tables, noise: pd.DataFrame | None = None, level: float = LEVEL) -> pd.DataFrame:
    """One row per cell in plan order, columns `COLUMNS`; NaN or None where a number does not exist.

    n: units (label, seed) with a row; labels: how many labels they have; compared: units that have a baseline image;
    failed: units without a row that failed. Means are over units, intervals at `level` as in `metrics.statistics`.
    target_token_forwards: target_rows / target_rows_alone, 1 for the target alone; likewise draft.
    committed_per_call: stages committed by verify rounds per target call, totals over units; NaN without target calls.
    identical: k of `compared` units whose tokens all equal the baseline's; different_bound: 95 % upper bound on the
    share of images that differ. speedup: geometric mean of baseline time / cell time, paired, without VAE decode, over
    `timed` units (the mean log ratio of a unit's repeats counts once); rows timed beside another worker are left out
    and their units counted in `contended`. The baseline's own row has its A/A timing there: the baseline timed against
    itself. latency_ms: mean over units of the median of a unit's repeats.
    noise_*: mean over `noise_pairs` pairs of images of the cell's baseline, of one label and two seeds; from `noise` or
    else `tables.noise`, see `source.NOISE_COLUMNS`.
    """
    known = cells(tables)
    pairs = noise_rows(tables) if noise is None else noise
    rows = []
    for cell in known.itertuples(index=False):
        row = {"cell": cell.cell, "name": cell.name, "strategy": cell.strategy, "lossless": cell.lossless}
        row |= {"baseline": cell.baseline, "is_baseline": cell.baseline == cell.cell}
        row |= _units(of_cell(tables.samples, cell.cell), of_cell(tables.failures, cell.cell), level)
        if cell.lossless != "tokens":  # a lossy cell differs for other reasons than rounding
            row["near_ties"] = 0
        row |= _timing(of_cell(tables.timings, cell.cell), level)
        row |= _noise(of_cell(pairs, cell.baseline))
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _units(samples: pd.DataFrame, failures: pd.DataFrame, level: float) -> dict[str, Any]:
    if samples.empty:
        columns = [c for c in MEANS if not c.endswith("token_forwards")]
        columns += ["label", "seed", "identical", "near_tie", "committed_by_verify"]
        columns += ["target_rows", "target_rows_alone", "draft_rows", "draft_rows_alone"]
        samples = pd.DataFrame(columns=columns, dtype=float)
    values = samples.assign(
        target_token_forwards=_share(samples["target_rows"], samples["target_rows_alone"]),
        draft_token_forwards=_share(samples["draft_rows"], samples["draft_rows_alone"]),
    )
    row: dict[str, Any] = {"n": len(samples), "labels": samples["label"].nunique()}
    compared = int(_numbers(samples["pixel_mae"]).notna().sum())
    done = set(zip(samples["label"], samples["seed"], strict=True))
    failed = set() if failures.empty else set(zip(failures["label"], failures["seed"], strict=True))
    row |= {"compared": compared, "failed": len(failed - done)}
    for name, (least, most) in MEANS.items():
        row |= _named(name, _interval(values[name], values["label"], level), least, most)
    calls = _numbers(samples["target_calls"]).sum()
    committed = _numbers(samples["committed_by_verify"]).sum()
    identical = int(true(samples["identical"]).sum())
    near_ties = int(true(samples["near_tie"]).sum()) if "near_tie" in samples else 0
    row |= {"committed_per_call": committed / calls if calls else np.nan, "near_ties": near_ties}
    return row | {"identical": identical, "different_bound": identical_bound(identical, compared, level)}


def _timing(timings: pd.DataFrame, level: float) -> dict[str, Any]:
    if timings.empty:
        return {"timed": 0, "contended": 0}
    beside = true(timings["contended"])
    alone = timings[~beside]
    with_vae = (alone["baseline_ms"] + alone["baseline_decode_ms"], alone["cell_ms"] + alone["cell_decode_ms"])
    measured = alone.assign(
        log=_numbers(np.log(alone["baseline_ms"] / alone["cell_ms"])), log_with_vae=_numbers(np.log(with_vae[0] / with_vae[1]))
    )
    repeats = measured.groupby(["label", "seed"])
    units = repeats[["log", "log_with_vae"]].mean().reset_index()
    times = repeats[["cell_ms", "baseline_ms"]].median().mean()
    row = _named("speedup", ratio_interval(units["log"].to_numpy(), units["label"].to_numpy(), level), 0, np.inf)
    row |= {"speedup_with_vae": float(np.exp(units["log_with_vae"].mean()))}
    row |= {"latency_ms": times["cell_ms"], "baseline_latency_ms": times["baseline_ms"]}
    return row | {"timed": len(units), "contended": _unit_count(timings[beside])}


def _noise(pairs: pd.DataFrame) -> dict[str, Any]:
    means = {f"noise_{name}": _numbers(pairs[name]).mean() for name in ("pixel_mae", "correlation")}
    return {**means, "noise_pairs": len(pairs)}


def _interval(values: pd.Series, labels: pd.Series, level: float) -> Interval:
    numbers = _numbers(values)
    there = numbers.notna()
    return mean_interval(numbers[there].to_numpy(), labels[there].to_numpy(), level)


def _named(name: str, interval: Interval, least: float, most: float) -> dict[str, float | None]:
    low, high = (None if v is None else float(np.clip(v, least, most)) for v in (interval.low, interval.high))
    return {name: interval.mean, f"{name}_low": low, f"{name}_high": high}


def _share(part: pd.Series, whole: pd.Series) -> pd.Series:
    """part / whole; NaN where there is no whole."""
    return _numbers(part) / _numbers(whole).replace(0, np.nan)


def _numbers(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values).astype(float)


def _unit_count(timings: pd.DataFrame) -> int:
    return len(timings[["label", "seed"]].drop_duplicates())
