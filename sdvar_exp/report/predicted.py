"""Predicted beside measured speed-up: a linear cost of calls and rows, from a profile or fitted on the other cells.

    T = target_call · calls + target_row · rows + draft_call · draft calls + draft_row · draft rows      (docs/cost-model.md)

with rows of both guidance halves together. From the stored counts and times alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.report.source import Tables, true

COUNTS = ("target_calls", "target_rows", "draft_calls", "draft_rows")
COSTS = ("target_call", "target_row", "draft_call", "draft_row")
FEWEST = 6
"""Cells of different counts that a fit without one of them needs."""


def measured(tables: Tables, summary: pd.DataFrame) -> pd.DataFrame:
    """Timed cells: what `summary` says, mean counts and mean ms over the timed units; rows halved, see above."""
    rows = []
    none = tables.timings.iloc[:0]
    times_of = dict(iter(tables.timings.groupby("cell"))) if len(tables.timings) else {}
    samples_of = dict(iter(tables.samples.groupby("cell"))) if len(tables.samples) else {}
    for cell in summary[summary["speedup"].notna()].to_dict("records"):
        timings, samples = times_of.get(cell["cell"], none), samples_of.get(cell["cell"], none)
        if timings.empty or not set(COUNTS) <= set(samples):
            continue
        times = timings[~true(timings["contended"])].groupby(["label", "seed"])["cell_ms"].median().astype(float)
        both = samples.set_index(["label", "seed"])[list(COUNTS)].join(times, how="inner").astype(float)
        if both["cell_ms"].notna().any():
            means = both.mean().to_dict()
            means |= {name: means[name] / 2 for name in ("target_rows", "draft_rows")}
            kept = (
                "cell",
                "number",
                "name",
                "strategy",
                "baseline",
                "is_baseline",
                "timed",
                "speedup",
                "speedup_low",
                "speedup_high",
            )
            rows.append({key: cell[key] for key in kept} | means)
    return pd.DataFrame(rows)


def predicted(cells: pd.DataFrame, profile: Mapping[str, Any] | None) -> pd.DataFrame:
    """`cells` of `measured` with `predicted`: predicted time of the baseline ÷ predicted time of the cell.

    profile: costs in any unit of time. Without one they are fitted for each cell anew, by non-negative least squares on
    relative errors, to the cells whose counts differ from its own: no cell is predicted from its own time or from a twin's.
    Cells whose baseline was not timed, and cells that too few others are left for, are dropped.
    """
    out, bases = [], {row["cell"]: row for row in cells.to_dict("records")}
    for cell in cells.to_dict("records"):
        base = bases.get(cell["baseline"])
        if base is None or cell["is_baseline"]:
            continue
        costs = _given(profile) if profile is not None else _fitted(cells, cell)
        if costs is not None and (time := costs @ _counts(cell)) > 0:
            out.append({**cell, "predicted": float(costs @ _counts(base) / time)})
    return pd.DataFrame(out)


def _counts(cell: Mapping[str, Any]) -> np.ndarray:
    return np.array([cell[name] for name in COUNTS], float)


def _given(profile: Mapping[str, Any]) -> np.ndarray:
    return np.array([profile[name] for name in COSTS], float)


def _fitted(cells: pd.DataFrame, without: Mapping[str, Any]) -> np.ndarray | None:
    own = _counts(without)
    others = cells[~np.isclose(cells[list(COUNTS)].to_numpy(float), own, rtol=1e-3, atol=1e-9).all(axis=1)]
    x, y = others[list(COUNTS)].to_numpy(float), others["cell_ms"].to_numpy(float)
    if len(np.unique(x.round(3), axis=0)) < FEWEST - 1:
        return None
    scale = np.maximum(x.max(axis=0), 1e-12)
    from scipy.optimize import nnls

    solution, _ = nnls(x / scale / y[:, None], np.ones(len(y)))
    return np.asarray(solution / scale)
