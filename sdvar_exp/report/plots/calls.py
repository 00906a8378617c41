"""Target calls and target token-forwards by cell, side by side: fewer calls may cost more rows."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdvar_exp.report.style import INK, MUTED, WIDTH, Drawn, data_hash, look, wrapped

TITLE = "Target calls and token-forwards"
PANELS = (
    ("target_calls", "target calls per image", 1),
    ("target_token_forwards", "target token-forwards (alone = 1)", 2),
)


def frame(summary: pd.DataFrame) -> pd.DataFrame:
    """Cells with rows, means and intervals of both counts."""
    columns = ["number", "name", "strategy", "is_baseline"]
    columns += [f"{c}{end}" for c, _, _ in PANELS for end in ("", "_low", "_high")]
    out = summary.loc[summary["target_calls"].notna(), columns].reset_index(drop=True)
    for c, _, _ in PANELS:
        for end in ("_low", "_high"):
            out[c + end] = out[c + end].astype(float).fillna(out[c].astype(float))
    return out


def figure(data: pd.DataFrame) -> Drawn:
    """Two panels that share the list of cells."""
    height = 0.65 + 0.27 * len(data)
    fig = Figure((WIDTH + 1.5, height))
    bottom, tall = 0.42 / height, 1 - 0.52 / height
    for i, (column, label, digits) in enumerate(PANELS):
        axis = fig.add_axes((0.355 + 0.33 * i, bottom, 0.28, tall))
        draw(data, axis, column, digits)
        axis.set_xlabel(label)
        names = [wrapped(f"{row.number}  {row.name}", 38, 2) for row in data.itertuples(index=False)]
        axis.set_yticks(range(len(data)), names if i == 0 else [""] * len(data), fontsize=6.5)
    return Drawn("target-calls-and-token-forwards", TITLE, fig, data_hash(data))


def draw(data: pd.DataFrame, axis: Axes, column: str, digits: int) -> None:
    """One bar per cell with its 95 % interval and value; the baseline's value as a line."""
    styles = look(data["strategy"].tolist())
    right = max(data[f"{column}_high"].max(), 1e-9)
    axis.set_xlim(0, 1.2 * right)
    axis.set_ylim(len(data) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(True, axis="x")
    for y, row in enumerate(data.to_dict("records")):
        mean, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
        axis.barh(y, mean, 0.62, color=styles[row["strategy"]][0], alpha=0.85)
        axis.plot([low, high], [y, y], color=INK, lw=0.9, solid_capstyle="butt")
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # the dashed line stops at a number
        axis.text(high + 0.02 * right, y, f"{mean:.{digits}f}", va="center", fontsize=6.5, color=INK, bbox=behind)
    for value in sorted(set(data.loc[data["is_baseline"], column])):
        axis.axvline(value, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1.5)
