"""γ traces: how many stages each round proposed, one small panel per cell that verifies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sdvar_exp.registry import register
from sdvar_exp.report.grid import cells_with, page_name, paged, panels
from sdvar_exp.report.material import Material
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.source import of_cell
from sdvar_exp.report.style import PALETTE, Drawn, data_hash
from sdvar_exp.words import span

NAME, TITLE = "gamma-traces", "γ by round"


@register("figure", NAME, place=40)
def figures(material: Material) -> Iterator[Drawn]:
    """One page of twelve cells, or as many as all of them need."""
    there = cells_with(material.tables.samples, "gamma_trace")
    yield from paged(material, there, frame, figure, "no cell has a γ trace: none drafts and verifies in rounds")


def frame(material: Material) -> pd.DataFrame:
    """number, name, round (from 1), gamma, count: decodes that had this γ in this round; running: decodes with the round."""
    rows = []
    for cell in material.summary.itertuples(index=False):
        samples = of_cell(material.tables.samples, cell.cell)
        traces = samples["gamma_trace"].dropna().tolist() if "gamma_trace" in samples else []
        steps = [(i, int(g)) for trace in traces for i, g in enumerate(str(trace).split(","), 1)]
        if not steps:
            continue
        counts = pd.DataFrame(steps, columns=["round", "gamma"]).value_counts().rename("count").reset_index()
        counts = counts.sort_values(["round", "gamma"])
        running = counts.groupby("round")["count"].transform("sum")
        rows.append(counts.assign(number=cell.number, name=cell.name, running=running, n=len(traces)))
    columns = ["number", "name", "round", "gamma", "count", "running", "n"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def figure(data: pd.DataFrame, size: Size | None = None, page: int = 1) -> Drawn:
    """Panels with common axes."""
    fig, grid = panels(data, size, "round", "γ")
    for own, axis in grid:
        draw(own, axis, int(data["round"].max()), int(data["gamma"].max()))
    marks = [
        Line2D([], [], color=PALETTE[0], marker="o", ls="", ms=4.5, mew=0, label="γ of some decodes, area: their share"),
        Line2D([], [], color=PALETTE[1], lw=1, label="mean of the decodes that have the round"),
    ]
    fig.legend(handles=marks, loc="upper left", ncols=2, bbox_to_anchor=(0.03, 1), fontsize=6.5, columnspacing=1.2)
    caption = (
        "Stages proposed by each round (γ, cut to the room that is left). Area: share of the decodes with that γ among "
        f"all decodes; a decode ends when all stages are committed. n = {span(data['n'])} decodes a cell."
    )
    return Drawn(page_name(NAME, page), TITLE, fig, data_hash(data), caption)


def draw(data: pd.DataFrame, axis: Axes, last: int, most: int) -> None:
    """Dots with an area in proportion to their share, and the mean as a line."""
    axis.set_xlim(0.4, last + 0.6)
    axis.set_ylim(-0.4 if (data["gamma"] == 0).any() else 0.4, most + 0.6)
    axis.set_xticks(range(1, last + 1, 1 if last < 11 else 2))
    axis.set_yticks(range(0 if (data["gamma"] == 0).any() else 1, most + 1, 1 if most < 6 else 2))
    axis.grid(True)
    share = data["count"].to_numpy(float) / data["n"].to_numpy(float)
    axis.scatter(data["round"], data["gamma"], s=30 * share + 1, color=PALETTE[0], alpha=0.75, lw=0, zorder=3)
    means = (data["gamma"] * data["count"]).groupby(data["round"]).sum() / data["count"].groupby(data["round"]).sum()
    axis.plot(means.index, np.asarray(means), color=PALETTE[1], lw=1, zorder=2)
