"""Whether speed-ups can be believed: the reference timed against itself (A/A) must be shown to be equal to itself.

That an interval holds 1 shows nothing where it is wide. Times count as sound where the whole interval of the A/A row lies
within the study's band, `timing.band`; otherwise there is no front, and nothing is said to be faster.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.metrics.quantities import headline
from sdvar_exp.plan import Timing
from sdvar_exp.report.source import numbers, pareto
from sdvar_exp.store.timing import UNSTEADY

BAND = Timing().band
"""Band of studies that say none."""
MOST_NAMED = 5
"""Unsteady cells that a line names; of more a number."""


def band_of(text: Any) -> tuple[float, float]:
    """The band that `runs` names, e.g. `[0.95, 1.05]`; `BAND` where it names none."""
    try:
        low, high = map(float, json.loads(text))
    except (TypeError, ValueError):
        return BAND
    return low, high


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` of the summary with `sound`: whether the A/A row of the cell's reference lies within its band.

    None where the cell was not timed, or where its reference is no row or was not timed. Reads `band_low` and `band_high`.
    """
    known = {row.cell: row for row in rows.itertuples(index=False) if row.is_baseline and row.timed}
    found: list[bool | None] = []
    for row in rows.itertuples(index=False):
        aa = known.get(row.baseline) if row.timed else None
        ends = None if aa is None else (_number(aa.speedup_low), _number(aa.speedup_high))
        found.append(None if aa is None or ends is None else bool(aa.band_low <= ends[0] and ends[1] <= aa.band_high))
    return rows.assign(sound=pd.array(found, dtype="boolean"))


def sound(summary: pd.DataFrame) -> np.ndarray:
    """(n,) bool: False where times were shown not to be sound; a summary that does not say it counts as sound."""
    if "sound" not in summary:
        return np.ones(len(summary), bool)
    return np.asarray(summary["sound"].astype("boolean").fillna(True), bool)


def alarm(summary: pd.DataFrame) -> str:
    """One line that tells which A/A row is not within its band and what to do; empty where there is nothing to say."""
    wrong = summary[~sound(summary) & summary["is_baseline"].astype(bool)] if len(summary) else summary
    if wrong.empty:
        return ""
    row = wrong.iloc[0]
    low, high = _number(row["speedup_low"]), _number(row["speedup_high"])
    seen = f"{_number(row['speedup']):.3f}" + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else " without an interval")
    return (
        f"these speed-ups are not to be relied on: the reference timed against itself gives {seen}, which must lie within "
        f"[{row['band_low']:g}, {row['band_high']:g}]; time more images on a quieter machine (seeds, timing.units, threads=1)"
    )


def unsteady(summary: pd.DataFrame) -> str:
    """One line that names the cells whose repeats vary by more than `UNSTEADY`; empty where there is none."""
    if "unsteady" not in summary or not (wrong := summary[summary["unsteady"].astype("boolean").fillna(False)]).size:
        return ""
    worst = wrong.sort_values("speedup_spread", ascending=False, kind="stable")
    named = [f"{name} ({100 * varies:.0f} %)" for name, varies in zip(worst["name"], worst["speedup_spread"], strict=True)]
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return (
        f"unsteady times: repeats of one image vary by more than {100 * UNSTEADY:.0f} % in "
        f"{', '.join(named[:MOST_NAMED])}{more}; time more of them (timing.repeats), on a quieter machine"
    )


def front(summary: pd.DataFrame, loss: str | None = None, gain: str | None = None) -> np.ndarray:
    """(n,) bool: cells that no other beats in both columns, by default speed-up (more) and pixel difference (less).

    The speed-up of the reference is 1 by definition, whatever its A/A timing gave. It may beat others and is never on the
    front itself. Nobody is where times are not sound.
    """
    loss, gain = loss or headline("difference").name, gain or headline("speed").name
    base = summary["is_baseline"].to_numpy(bool)
    gains = numbers(summary[gain]).to_numpy()
    if gain == headline("speed").name:
        gains = np.where(base, 1.0, np.where(sound(summary), gains, np.nan))
    return np.asarray(pareto(gains, numbers(summary[loss]).to_numpy()) & ~base)


def _number(value: Any) -> float:
    return float("nan") if value is None or pd.isna(value) else float(value)
