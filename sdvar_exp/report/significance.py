"""Finds the best cell of a column and tests it against chance: paired sign flips, corrected after Holm."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from sdvar_exp.metrics.permutation import holm, sign_flip
from sdvar_exp.metrics.quantities import tabled
from sdvar_exp.report.source import Tables, numbers, rates_by_unit, with_rates

ALPHA = 0.05
COLUMNS = ("metric", "baseline", "best", "cell", "p", "p_holm", "n")


def comparisons(tables: Tables, summary: pd.DataFrame) -> pd.DataFrame:
    """Best cell of each metric against each other cell of its baseline, columns `COLUMNS`; the baseline itself is left out.

    Units are paired by label and seed, speed-ups as logarithms. p of a sign flip over the units that both have; p_holm:
    over the other cells. A cell with equal values in every unit is a twin: its p is None, it is not one of the others.
    """
    if summary.empty or "cell" not in tables.samples:
        return pd.DataFrame(columns=list(COLUMNS))
    own = {str(cell): rows_of for cell, rows_of in with_rates(tables.samples).groupby("cell")}
    rows = []
    for m in tabled():
        if not m.better:
            continue
        values = {cell: rates_by_unit(rows_of, m) for cell, rows_of in own.items()}
        for baseline, cells in summary[~summary["is_baseline"].astype(bool)].groupby("baseline", sort=False):
            means = numbers(cells.set_index("cell")[m.name]).dropna()
            if len(means) < 2:
                continue
            best = str((m.better * means).idxmax())
            found = [(cell, *_compare(values, best, str(cell))) for cell in means.index if cell != best]
            adjusted = holm([p for _, p, _ in found])
            rows += [(m.name, baseline, best, cell, p, q, n) for (cell, p, n), q in zip(found, adjusted, strict=True)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _compare(values: Mapping[str, pd.Series], best: str, cell: str) -> tuple[float | None, int]:
    if not {best, cell} <= set(values):
        return 1.0, 0
    difference = (values[best] - values[cell]).dropna()
    if not len(difference):
        return 1.0, 0  # nothing in common: nothing shown
    return (None if (difference == 0).all() else sign_flip(difference.to_numpy())), len(difference)


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
