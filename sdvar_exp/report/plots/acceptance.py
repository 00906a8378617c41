"""Acceptance and coupled match rate by stage: one small panel per cell that verifies."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sdvar_exp.metrics.statistics import mean_interval
from sdvar_exp.report.source import Tables, of_cell
from sdvar_exp.report.style import PALETTE, WIDTH, Drawn, data_hash, wrapped

TITLE = "Acceptance and match rate by stage"
COLUMNS = 3
LINES = {
    "acceptance": ("share of tokens that the rule accepts", PALETTE[0], "o", "-"),
    "match_rate": ("share equal to the target's sample under shared noise", PALETTE[1], "s", "--"),
}


def frame(tables: Tables, summary: pd.DataFrame) -> pd.DataFrame:
    """Per cell, stage and quantity: mean over the images whose commit judged that stage, 95 % interval, n.

    A stage between others that no round judged has an empty row, so that no line bridges it.
    """
    rows = []
    stages = tables.stages
    for cell in summary.itertuples(index=False):
        own = of_cell(stages, cell.cell)
        for quantity in LINES:
            there = own[own[quantity].notna()] if quantity in own else own.iloc[:0]
            for stage in range(int(there["stage"].min()), int(there["stage"].max()) + 1) if len(there) else ():
                group = there[there["stage"] == stage]
                mean = mean_interval(group[quantity].to_numpy(float), group["label"].to_numpy())
                low, high = (v if v is None else min(max(v, 0), 1) for v in (mean.low, mean.high))
                key = {"number": cell.number, "name": cell.name, "quantity": quantity, "stage": stage}
                rows.append({**key, "mean": mean.mean, "low": low, "high": high, "n": mean.n})
    columns = ["number", "name", "quantity", "stage", "mean", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def figure(data: pd.DataFrame) -> Drawn:
    """Panels with common axes, three in a row."""
    cells = list(data.drop_duplicates("number")[["number", "name"]].itertuples(index=False))
    across = min(COLUMNS, len(cells))
    down = math.ceil(len(cells) / across)
    width, height = WIDTH + 1.5, 1.7 * down + 0.36
    fig = Figure((width, height))
    last = int(data["stage"].max())
    for i, cell in enumerate(cells):
        row, column = divmod(i, across)
        left = (0.5 + column * (width - 0.55) / across) / width
        bottom = (height - 0.31 - 1.7 * (row + 1) + 0.4) / height
        axis = fig.add_axes((left, bottom, ((width - 0.55) / across - 0.3) / width, 1.02 / height))
        draw(data[data["number"] == cell.number], axis, last)
        axis.set_title(wrapped(f"{cell.number}  {cell.name}", 36 if across > 1 else 90, 2), loc="left", fontsize=7)
        axis.set_xlabel("stage" if i + across >= len(cells) else "")
        axis.tick_params(labelleft=column == 0)
    marks = [Line2D([], [], color=c, marker=m, ls=ls, ms=3.5, lw=1, label=t) for t, c, m, ls in LINES.values()]
    fig.legend(handles=marks, loc="upper left", ncols=2, bbox_to_anchor=(0.05, 1), fontsize=7)
    return Drawn("acceptance-by-stage", TITLE, fig, data_hash(data))


def draw(data: pd.DataFrame, axis: Axes, last: int) -> None:
    """Lines over the stages 0 … last with 95 % bands; stages that no round judged have no point."""
    axis.set_xlim(-0.4, last + 0.4)
    axis.set_ylim(-0.04, 1.04)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axis.set_xticks(range(0, last + 1, 1 if last < 12 else 2))
    axis.grid(True)
    for quantity, (_, colour, marker, dashes) in LINES.items():
        own = data[data["quantity"] == quantity].sort_values("stage")
        low, high = own["low"].astype(float), own["high"].astype(float)
        axis.fill_between(own["stage"], low, high, color=colour, alpha=0.2, lw=0)
        axis.plot(own["stage"], own["mean"].astype(float), marker, ls=dashes, color=colour, ms=3, lw=1)
