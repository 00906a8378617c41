"""Histogram of the stages that a round commits, one small panel per cell that verifies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sdvar_exp.registry import register
from sdvar_exp.report.grid import cells_with, page_name, paged, panels
from sdvar_exp.report.material import Material
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.source import of_cell
from sdvar_exp.report.style import PALETTE, Drawn, data_hash
from sdvar_exp.store.rounds import commits_per_round
from sdvar_exp.words import span

NAME, TITLE = "commits-by-round", "Stages committed by a round"


@register("figure", NAME, place=45)
def figures(material: Material) -> Iterator[Drawn]:
    """One page of twelve cells, or as many as all of them need."""
    there = cells_with(material.tables.samples, "commit_trace")
    yield from paged(material, there, frame, figure, "no cell has rounds of draft and verify whose commits are known")


def frame(material: Material) -> pd.DataFrame:
    """number, name, committed, rounds: how many rounds committed so many stages; n: decodes."""
    rows = []
    for cell in material.summary.itertuples(index=False):
        traces = of_cell(material.tables.samples, cell.cell)["commit_trace"].dropna()
        for committed, rounds in commits_per_round(traces).items():
            key = {"number": cell.number, "name": cell.name}
            rows.append({**key, "committed": committed, "rounds": rounds, "n": len(traces)})
    return pd.DataFrame(rows, columns=["number", "name", "committed", "rounds", "n"])


def figure(data: pd.DataFrame, size: Size | None = None, page: int = 1) -> Drawn:
    """Panels with common axes."""
    fig, grid = panels(data, size, "stages committed", "share of rounds")
    for own, axis in grid:
        draw(own, axis, int(data["committed"].max()))
    caption = (
        f"{TITLE}, the corrected or bonus stage included: share of the cell's rounds; the line is their mean, the mean "
        f"acceptance length. n = {span(data['n'])} decodes a cell."
    )
    return Drawn(page_name(NAME, page), TITLE, fig, data_hash(data), caption)


def draw(data: pd.DataFrame, axis: Axes, most: int) -> None:
    """Bars of shares, and the mean as a line with its value."""
    counts = data["rounds"].to_numpy(float)
    axis.set_xlim(-0.6, most + 0.6)
    axis.set_ylim(0, 1.24)
    axis.set_xticks(range(0, most + 1, 1 if most < 9 else 2))
    axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.grid(True, axis="y")
    axis.bar(data["committed"], counts / counts.sum(), width=0.8, color=PALETTE[0])
    mean = float(np.average(data["committed"], weights=counts))
    axis.axvline(mean, color=PALETTE[1], lw=1)
    side = 1 if mean < most / 2 else -1  # towards the wider side
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (3 * side, 0), "textcoords": "offset points"}
    axis.annotate(f"{mean:.2f}", (mean, 1), ha="left" if side > 0 else "right", va="top", fontsize=6.5, **place)
