"""One row per cell: means with 95 % intervals, counts, and what they are compared with.

Knows the tables of the results store; every rate of the report is derived here, from stored counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.metrics.quantities import OWN, Metric, headline, metric, metrics, tabled
from sdvar_exp.metrics.statistics import Interval, identical_bound, mean_interval, ratio_interval
from sdvar_exp.report.soundness import band_of, judged
from sdvar_exp.report.source import Tables, cells, noise_rows, numbers, of_cell, true, with_rates
from sdvar_exp.store.timing import UNSTEADY, spread

LEVEL = 0.95
ENDS = ("", "_low", "_high")
CUT = ".cut"
WORST = ("pixel_max_abs", "first_divergent_stage")
"""Columns of rows of which the summary keeps the worst image, against the own baseline."""


def columns(own: bool = False) -> list[str]:
    """Columns of the summary: what a cell is, means with intervals, counts, speed, another seed.

    own: a cell's own baseline is not always the reference, so that what compares stands twice, with the ending `_own`.
    """
    shown = [m for m in metrics() if m.summarised and not m.timed]
    return [
        *("cell", "name", "strategy", "lossless", "baseline", "is_baseline", "own_baseline"),
        *("n", "labels", "compared", "failed"),
        *(f"{m.name}{end}" for m in shown if m.average != "pooled" for end in ENDS),
        *(m.name for m in shown if m.average == "pooled"),
        *("identical", "different_bound", "near_ties", "largest_difference", "earliest_divergence"),
        *(
            "speedup",
            "speedup_low",
            "speedup_high",
            "speedup_with_vae",
            "latency_ms",
            "baseline_latency_ms",
            "speedup_spread",
            "unsteady",
            "timed",
            "contended",
            "again",
            "sound",
            "band_low",
            "band_high",
        ),
        "cut",
        *(f"noise_{m.name}" for m in metrics() if m.has_floor),
        "noise_pairs",
        *(f"{m.name}{end}" for m in (_own_metrics() if own else ()) for end in ENDS),
    ]


def _own_metrics() -> list[Metric]:
    """Metrics that stand a second time against the own baseline."""
    return [m.against_baseline() for m in metrics() if m.summarised and m.relative and m.average != "pooled"]


def table_metrics(summary: pd.DataFrame) -> list[Metric]:
    """Metrics of every table, each followed by its second column against the own baseline where the summary has one."""
    both = [(m, m.against_baseline()) for m in tabled()]
    return [m for pair in both for m in pair if m.name in summary and (m is pair[0] or summary[m.name].notna().any())]


def summarise(tables: Tables, noise: pd.DataFrame | None = None, level: float = LEVEL) -> pd.DataFrame:
    """One row per cell in plan order, see `columns`; NaN or None where a number does not exist.

    n: units (label, seed) with a row; labels: how many labels they have; compared: units that have a baseline image; failed:
    units without a row that failed. Means are over units, intervals at `level` as in `metrics.statistics`. Numbers that compare
    are against `baseline`, the study's reference; where some cell's own baseline is another one, the same numbers against that
    stand in `…_own`. target_token_forwards: target_rows / rows of the reference; likewise draft. committed_per_call: stages
    committed by verify rounds per target call, totals over units; NaN without target calls. identical: k of `compared` units
    whose tokens all equal the own baseline's; different_bound: 95 % upper bound on the share of images that differ.
    largest_difference: of any pixel of any of these images; earliest_divergence: first stage in which any of them has another
    token than its own baseline, NaN where none has. speedup: geometric mean of baseline time / cell time, paired, without VAE
    decode, over `timed` units, each with the median of its repeats; repeats timed beside another worker are left out, and units
    that have no others counted in `contended`. again: repeats measured in addition, see `store.timing.measure_again`. The
    baseline's own row has its A/A timing there: the baseline timed against itself. latency_ms: mean over units of the median of
    a unit's repeats. speedup_spread: how much one repeat varies, see `store.timing.spread`; unsteady: by more than `UNSTEADY`.
    sound: whether that A/A timing lies within band_low … band_high, see `report.soundness`. cut: metrics
    whose interval reaches beyond their range and is cut to it, by name.
    noise_*: mean over `noise_pairs` pairs of images of the cell's baseline, of one label and two seeds; from `noise` or
    else `tables.noise`, see `source.NOISE_COLUMNS`.
    """
    known = cells(tables)
    own = bool((known["baseline"] != known["own_baseline"]).any())
    pairs = noise_rows(tables) if noise is None else noise
    values = _values(tables.samples)
    units, none = dict(iter(values.groupby("cell"))), values.iloc[:0]
    timings = dict(iter(tables.timings.groupby("cell"))) if len(tables.timings) else {}
    bands = dict(zip(tables.runs["cell"], tables.runs["timing_band"], strict=True)) if "timing_band" in tables.runs else {}
    rows = []
    for cell in known.itertuples(index=False):
        row = {"cell": cell.cell, "name": cell.name, "strategy": cell.strategy, "lossless": cell.lossless}
        row |= {"baseline": cell.baseline, "is_baseline": cell.baseline == cell.cell, "own_baseline": cell.own_baseline}
        row |= _units(units.get(cell.cell, none), of_cell(tables.failures, cell.cell), level)
        if cell.lossless != "tokens":  # a lossy cell differs for other reasons than rounding
            row["near_ties"] = 0
        row |= _timing(timings.get(cell.cell, tables.timings.iloc[:0]), level)
        row |= dict(zip(("band_low", "band_high"), band_of(bands.get(cell.cell)), strict=True))
        row |= _noise(of_cell(pairs, cell.baseline))
        if own and cell.own_baseline == cell.baseline:
            row |= {f"{m.name}{OWN}{end}": row.get(f"{m.name}{end}") for m in metrics() if m.relative for end in ENDS}
        row["cut"] = " ".join(name.removesuffix(CUT) for name, value in row.items() if name.endswith(CUT) and value)
        rows.append(row)
    return judged(pd.DataFrame(rows, columns=columns(own)))


def _values(samples: pd.DataFrame) -> pd.DataFrame:
    """Columns of `samples` that the summary reads: identity, and every metric and what it is pooled from as floats."""
    shown = [m for m in metrics() if m.summarised and not m.timed]
    needed = dict.fromkeys([m.name for m in shown] + [name for m in shown if m.average == "pooled" for name in m.needs])
    found = with_rates(samples)
    needed |= dict.fromkeys(m.name + OWN for m in shown if m.relative and m.name + OWN in found)
    needed |= dict.fromkeys(name for m in WORST for name in (m, m + OWN))
    found = found.reindex(columns=["cell", "label", "seed", "identical", "near_tie", *needed])
    return found.assign(**{name: numbers(found[name]) for name in needed})


def _units(values: pd.DataFrame, failures: pd.DataFrame, level: float) -> dict[str, Any]:
    row: dict[str, Any] = {"n": len(values), "labels": values["label"].nunique()}
    compared = int(numbers(values[headline("difference").name]).notna().sum())
    done = set(zip(values["label"], values["seed"], strict=True))
    failed = set() if failures.empty else set(zip(failures["label"], failures["seed"], strict=True))
    row |= {"compared": compared, "failed": len(failed - done)}
    for m in metrics():
        if m.summarised and not m.timed:
            row |= _pooled(m, values) if m.average == "pooled" else _averaged(m, values, level)
            if m.relative and m.name + OWN in values and values[m.name + OWN].notna().any():
                row |= _averaged(m.against_baseline(), values, level)
    identical, near_ties = (int(true(values[name]).sum()) for name in ("identical", "near_tie"))
    row |= {"identical": identical, "near_ties": near_ties}
    difference = headline("difference").name + OWN
    ending = OWN if difference in values and values[difference].notna().any() else ""
    largest, earliest = (numbers(values[m + ending]) for m in WORST)
    row |= {"largest_difference": largest.max(), "earliest_divergence": earliest.min()}
    return row | {"different_bound": identical_bound(identical, compared, level)}


def _averaged(metric: Metric, values: pd.DataFrame, level: float) -> dict[str, Any]:
    column, labels = values[metric.name].to_numpy(), values["label"].to_numpy()
    known = np.log(column) if metric.ratio else column
    there = np.isfinite(known)
    return _named(metric, (ratio_interval if metric.ratio else mean_interval)(known[there], labels[there], level))


def _pooled(metric: Metric, values: pd.DataFrame) -> dict[str, float]:
    """The metric of the sums of its columns; NaN where it is not finite."""
    with np.errstate(all="ignore"):
        value = metric.function(**{name: np.nansum(values[name].to_numpy()) for name in metric.needs})
    return {metric.name: float(value) if np.isfinite(value) else np.nan}


def _timing(timings: pd.DataFrame, level: float) -> dict[str, Any]:
    if timings.empty:
        return {"timed": 0, "contended": 0, "again": 0, "unsteady": False}
    beside = true(timings["contended"])
    alone = timings[~beside]
    others = ["baseline", *(["own"] if "own_ms" in alone and alone["own_ms"].notna().any() else [])]
    logs = {}
    for other in others:
        logs[other] = numbers(np.log(alone[f"{other}_ms"] / alone["cell_ms"]))
        with_vae = alone[f"{other}_ms"] + alone[f"{other}_decode_ms"], alone["cell_ms"] + alone["cell_decode_ms"]
        logs[f"{other}_vae"] = numbers(np.log(with_vae[0] / with_vae[1]))
    repeats = alone.assign(**logs).groupby(["label", "seed"])
    units = repeats[list(logs)].median().reset_index()
    times = repeats[["cell_ms", "baseline_ms"]].median().mean()
    row: dict[str, Any] = {}
    for other, ending in zip(others, ("", OWN), strict=False):
        speed = replace(metric("speedup"), name=f"speedup{ending}")
        row |= _named(speed, ratio_interval(units[other].to_numpy(), units["label"].to_numpy(), level))
        row |= {f"speedup_with_vae{ending}": float(np.exp(units[f"{other}_vae"].mean()))}
    row |= {"latency_ms": times["cell_ms"], "baseline_latency_ms": times["baseline_ms"]}
    varies = spread(alone.to_dict("records"))
    row |= {"speedup_spread": varies, "unsteady": varies > UNSTEADY}
    again = int(true(alone["again"]).sum()) if "again" in alone else 0
    return row | {"timed": len(units), "contended": _unit_count(timings) - _unit_count(alone), "again": again}


def _noise(pairs: pd.DataFrame) -> dict[str, Any]:
    floor = [m.name for m in metrics() if m.has_floor]
    means = {f"noise_{name}": numbers(pairs[name]).mean() if name in pairs else np.nan for name in floor}
    return {**means, "noise_pairs": len(pairs)}


def _named(metric: Metric, interval: Interval) -> dict[str, Any]:
    ends = (metric.clipped(interval.low), metric.clipped(interval.high))
    cut = {f"{metric.name}{CUT}": ends != (interval.low, interval.high)}
    return dict(zip((f"{metric.name}{end}" for end in ENDS), (interval.mean, *ends), strict=True)) | cut


def _unit_count(timings: pd.DataFrame) -> int:
    return len(timings[["label", "seed"]].drop_duplicates())
