"""Speed-up against pixel difference, one numbered marker per cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sdvar_exp.report.labels import place_labels
from sdvar_exp.report.style import INK, MUTED, WIDTH, Drawn, data_hash, look, wrapped

TITLE = "Speed-up against pixel difference"
PLOT = 3.7
"""Inches of height for the plot and its axis labels."""
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def frame(summary: pd.DataFrame) -> pd.DataFrame:
    """Timed cells that have a baseline image, with intervals, the noise floor and whether no other cell is better.

    A cell is on the Pareto front if no other has at least its speed-up and at most its pixel difference, one strictly.
    """
    keep = summary["speedup"].notna() & summary["pixel_mae"].notna()
    columns = ["number", "name", "strategy", "is_baseline", "noise_pixel_mae", "n", "timed"]
    columns += [f"{c}{end}" for c in ("speedup", "pixel_mae") for end in ("", "_low", "_high")]
    out = summary.loc[keep, columns].reset_index(drop=True)
    for c in ("speedup", "pixel_mae"):
        for end in ("_low", "_high"):
            out[c + end] = out[c + end].astype(float).fillna(out[c].astype(float))
    speed, error = out["speedup"].to_numpy(float), out["pixel_mae"].to_numpy(float)
    better = (speed[None] >= speed[:, None]) & (error[None] <= error[:, None])
    strictly = (speed[None] > speed[:, None]) | (error[None] < error[:, None])
    return out.assign(pareto=~(better & strictly).any(axis=1))


def figure(data: pd.DataFrame) -> Drawn:
    """The plot with the key to its numbers below, in two columns."""
    names = [wrapped(row.name, 56, 2) for row in data.itertuples(index=False)]
    half = (len(names) + 1) // 2
    columns = [list(range(half)), list(range(half, len(names)))]
    key = max(sum(_height(names[i]) for i in c) for c in columns) + 0.3
    width, height = WIDTH + 1.5, PLOT + key
    fig = Figure((width, height))
    axis = fig.add_axes((0.085, (key + 0.5) / height, 0.9, (PLOT - 0.58) / height))
    draw(data, axis)
    _key(fig.add_axes((0, 0, 1, key / height), xlim=(0, width), ylim=(0, key)), data, names, columns, key)
    return Drawn("speedup-vs-pixel-difference", TITLE, fig, data_hash(data))


def draw(data: pd.DataFrame, axis: Axes) -> None:
    """x: mean pixel difference; y: speed-up, logarithmic; crosses are 95 % intervals."""
    styles = look(data["strategy"].tolist())
    floors = sorted(set(data["noise_pixel_mae"].dropna()))
    right = max([*data["pixel_mae_high"], *floors, 1e-3])
    axis.set_xlim(-0.04 * right, 1.08 * right)
    axis.set_yscale("log")
    axis.set_ylim(min(data["speedup_low"].min(), 1) / 1.18, max(data["speedup_high"].max(), 1) * 1.18)
    axis.yaxis.set_major_locator(FixedLocator(TICKS))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.grid(True)
    axis.axhline(1, color=MUTED, lw=0.8)
    for floor in floors:
        axis.axvline(floor, color=MUTED, lw=0.8, ls=(0, (4, 3)))
        at: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (-3, 0), "textcoords": "offset points"}
        turned: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "top"}
        axis.annotate("noise floor", (floor, 0.98), fontsize=6.5, color=MUTED, **at, **turned)
    front = data[data["pareto"]].sort_values(["pixel_mae", "speedup"])
    axis.step(front["pixel_mae"], front["speedup"], where="post", color=INK, lw=0.8, ls=":", zorder=1.5)
    for row in data.itertuples(index=False):
        colour, marker = styles[row.strategy]
        x_error = [[row.pixel_mae - row.pixel_mae_low], [row.pixel_mae_high - row.pixel_mae]]
        y_error = [[row.speedup - row.speedup_low], [row.speedup_high - row.speedup]]
        axis.errorbar(row.pixel_mae, row.speedup, y_error, x_error, color=colour, lw=0.7, alpha=0.6, zorder=2)
        fill = colour if row.pareto else "white"
        axis.plot(row.pixel_mae, row.speedup, marker, ms=4.8, mfc=fill, mec=colour, mew=0.9)
    axis.set_xlabel("pixel difference to the baseline (mean |a−b|)")
    axis.set_ylabel("speed-up (baseline time ÷ cell time)")
    lines = [(-right, 1, 2 * right, 1)]
    for a, b in zip(front.itertuples(index=False), front.iloc[1:].itertuples(index=False), strict=False):
        lines += [(a.pixel_mae, a.speedup, b.pixel_mae, a.speedup), (b.pixel_mae, a.speedup, b.pixel_mae, b.speedup)]
    for row in data.itertuples(index=False):
        lines.append((row.pixel_mae_low, row.speedup, row.pixel_mae_high, row.speedup))
        lines.append((row.pixel_mae, row.speedup_low, row.pixel_mae, row.speedup_high))
    numbers = [str(n) for n in data["number"]]
    place_labels(axis, data["pixel_mae"].tolist(), data["speedup"].tolist(), numbers, lines)


def _key(axis: Axes, data: pd.DataFrame, names: list[str], columns: list[list[int]], top: float) -> None:
    """Numbers, markers and names in columns; units are inches."""
    axis.set_axis_off()
    styles = look(data["strategy"].tolist())
    for x, column in zip((0.3, 3.65), columns, strict=True):
        y = top
        for i in column:
            row = data.iloc[i]
            colour, marker = styles[row["strategy"]]
            axis.plot(x, y - 0.05, marker, ms=4.8, mfc=colour if row["pareto"] else "white", mec=colour, mew=0.9)
            axis.text(x + 0.24, y, str(row["number"]), fontsize=6.5, ha="right", va="top", color=INK)
            axis.text(x + 0.3, y, names[i], fontsize=6.5, va="top", color=INK, linespacing=1.15)
            y -= _height(names[i])
    units = np.unique(data["timed"].to_numpy(int))
    span = str(units[0]) if units.size == 1 else f"{units[0]}–{units[-1]}"
    note = f"filled: no other cell is both faster and closer; crosses: 95 % intervals, {span} timed images a cell"
    axis.text(0.25, 0.06, note, fontsize=6, va="bottom", color=MUTED)


def _height(name: str) -> float:
    """Inches that a name takes in the key."""
    return 0.118 * (name.count("\n") + 1) + 0.045
