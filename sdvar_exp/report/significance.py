"""Which cell is best in a column, and whether that is more than chance: paired sign flips, corrected after Holm."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sdvar_exp.metrics.permutation import holm, sign_flip
from sdvar_exp.report.compare import with_rates
from sdvar_exp.report.source import Tables

ALPHA = 0.05
BETTER = {
    "target_calls": -1,
    "target_token_forwards": -1,
    "speedup": 1,
    "pixel_mae": -1,
    "correlation": 1,
    "token_agreement": 1,
}
"""Columns of the summary that can have a best cell; 1 where larger is better."""
COLUMNS = ("metric", "baseline", "best", "cell", "p", "p_holm", "n")


def comparisons(tables: Tables, summary: pd.DataFrame) -> pd.DataFrame:
    """Best cell of each metric against each other cell of its baseline, columns `COLUMNS`; the baseline itself is left out.

    Units are paired by label and seed, speed-ups as logarithms. p of a sign flip over the units that both have; p_holm:
    over the other cells. A cell with equal values in every unit is a twin: its p is None, it is not one of the others.
    """
    if summary.empty or "cell" not in tables.samples:
        return pd.DataFrame(columns=list(COLUMNS))
    values = {cell: own.set_index(["label", "seed"]) for cell, own in with_rates(tables.samples).groupby("cell")}
    rows = []
    for metric, sign in BETTER.items():
        for baseline, cells in summary[~summary["is_baseline"].astype(bool)].groupby("baseline", sort=False):
            means = pd.to_numeric(cells.set_index("cell")[metric]).astype(float).dropna()
            if len(means) < 2:
                continue
            best = str((sign * means).idxmax())
            found = [(cell, *_compare(values, best, str(cell), metric)) for cell in means.index if cell != best]
            adjusted = holm([p for _, p, _ in found])
            rows += [(metric, baseline, best, cell, p, q, n) for (cell, p, n), q in zip(found, adjusted, strict=True)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _compare(values: Mapping[str, pd.DataFrame], best: str, cell: str, metric: str) -> tuple[float | None, int]:
    one, other = (_series(values.get(c), metric) for c in (best, cell))
    difference = (one - other).dropna()
    if not len(difference):
        return 1.0, 0  # nothing in common: nothing shown
    return (None if (difference == 0).all() else sign_flip(difference.to_numpy())), len(difference)


def _series(frame: pd.DataFrame | None, metric: str) -> pd.Series:
    if frame is None or metric not in frame:
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], []], names=["label", "seed"]))
    numbers = pd.to_numeric(frame[metric]).astype(float)
    return np.log(numbers) if metric == "speedup" else numbers


def winners(found: pd.DataFrame, alpha: float = ALPHA) -> set[tuple[str, str]]:
    """(metric, cell) of the best cells that differ from every other at `alpha` after Holm, with their twins.

    Where all cells are twins none is best.
    """
    out: set[tuple[str, str]] = set()
    for (metric, best), own in found.groupby(["metric", "best"], sort=False):
        others = own["p_holm"].dropna()
        if len(others) and (others.astype(float) < alpha).all():
            twins = own.loc[own["p"].isna(), "cell"]
            out |= {(str(metric), str(cell)) for cell in [best, *twins]}
    return out
