"""Acceptance and coupled match rate by stage: one small panel per cell that verifies."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sdvar_exp.metrics.statistics import mean_interval
from sdvar_exp.registry import register
from sdvar_exp.report.grid import cells_with, page_name, paged, panels
from sdvar_exp.report.material import Material, images_of
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.source import Tables, of_cell, stage_rows
from sdvar_exp.report.style import PALETTE, Drawn, data_hash

NAME, TITLE = "acceptance-by-stage", "Acceptance and match rate by stage"
LINES = {
    "accepted_share": ("share of tokens that the rule accepts", PALETTE[0], "o", "-"),
    "match_rate": ("share equal to the target's sample under shared noise", PALETTE[1], "s", "--"),
}


@register("figure", NAME, place=30)
def figures(material: Material) -> Iterator[Drawn]:
    """One page of twelve cells, or as many as all of them need."""
    there = cells_with(stage_rows(material.tables), *LINES)
    yield from paged(material, there, lambda m: frame(m.tables, m.summary), figure, "no cell has verified stages")


def frame(tables: Tables, summary: pd.DataFrame) -> pd.DataFrame:
    """Per cell, stage and quantity: mean over the images whose commit judged that stage, 95 % interval, n.

    A stage between others that no round judged has an empty row, so that no line bridges it.
    """
    rows = []
    stages = stage_rows(tables)
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


def figure(data: pd.DataFrame, size: Size | None = None, page: int = 1) -> Drawn:
    """Panels with common axes."""
    fig, grid = panels(data, size, "stage", "share of tokens")
    for own, axis in grid:
        draw(own, axis, int(data["stage"].max()))
    marks = [Line2D([], [], color=c, marker=m, ls=ls, ms=3.5, lw=1, label=t) for t, c, m, ls in LINES.values()]
    fig.legend(handles=marks, loc="upper left", ncols=2, bbox_to_anchor=(0.03, 1), fontsize=6.5, columnspacing=1.2)
    caption = (
        f"{TITLE}: means over the images whose commit judged the stage; bands are 95 % intervals; a stage that no round "
        f"judged has no point. {images_of(data.loc[data['n'] > 0, 'n'], 'images a point')}."
    )
    return Drawn(page_name(NAME, page), TITLE, fig, data_hash(data), caption)


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
