"""Histogram of the stages that a round commits, one small panel per cell that verifies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sdvar_exp.registry import register
from sdvar_exp.report.grid import PER_PAGE, page_name, pages, panels
from sdvar_exp.report.material import Material, Skipped, left_out
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.source import of_cell
from sdvar_exp.report.style import PALETTE, Drawn, data_hash
from sdvar_exp.store.rounds import commits_per_round

NAME, TITLE = "commits-by-round", "Stages committed by a round"


@register("figure", NAME, place=45)
def figures(material: Material) -> Iterator[Drawn]:
    """One page of twelve cells, or as many as all of them need."""
    samples = material.tables.samples
    there = set(samples.loc[samples["commit_trace"].notna(), "cell"]) if "commit_trace" in samples else set()
    cells = [cell for cell in material.summary["cell"] if cell in there]
    if not cells:
        raise Skipped("no cell has rounds of draft and verify whose commits are known")
    shown = material.telling(cells, PER_PAGE)
    data = frame(replace(material, summary=material.summary[material.summary["cell"].isin(shown)]))
    for page, numbers in enumerate(pages(data["number"].unique().tolist()), 1):
        drawn = figure(data[data["number"].isin(numbers)], material.size, page)
        yield replace(drawn, caption=drawn.caption + left_out(len(shown), len(cells)))


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
    cells = list(data.drop_duplicates("number")[["number", "name"]].itertuples(index=False))
    fig, grid = panels([f"{cell.number}  {cell.name}" for cell in cells], (size or Size()).full)
    most = int(data["committed"].max())
    for cell, panel in zip(cells, grid, strict=True):
        draw(data[data["number"] == cell.number], panel.axis, most)
        panel.axis.set_xlabel("stages committed" if panel.bottom else "")
        panel.axis.set_ylabel("share of rounds" if panel.first else "")
    counts = sorted(set(data["n"]))
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    caption = (
        f"{TITLE}, the corrected or bonus stage included: share of the cell's rounds; the line is their mean, the mean "
        f"acceptance length. n = {span} decodes a cell."
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
