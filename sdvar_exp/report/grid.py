"""Small panels with common axes, one per cell, and pages of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdvar_exp.report.material import Material, Skipped, left_out
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.style import Drawn, wrapped

PER_PAGE = 12
ROW, PANEL, HEAD, FOOT = 1.62, 0.98, 0.3, 0.42
"""Inches: height of a row, of the axes within it, of the legend above, of the axis labels below."""
LEFT, GAP = 0.5, 0.3


def panels(data: pd.DataFrame, size: Size | None, x: str, y: str) -> tuple[Figure, list[tuple[pd.DataFrame, Axes]]]:
    """A figure with one panel per cell of `data`, as many in a row as fit, up to three, and the rows that belong on each.

    x, y: words for the axes of the panels at the bottom and at the left edge.
    """
    width = (size or Size()).full
    cells = data.drop_duplicates("number")
    titles = [f"{number}  {name}" for number, name in zip(cells["number"], cells["name"], strict=True)]
    across = min(len(titles), max(1, min(3, int(width / 1.8))))
    down = math.ceil(len(titles) / across)
    height = HEAD + ROW * down + FOOT - 0.3
    fig = Figure((width, height))
    step = (width - LEFT - 0.05) / across
    out = []
    for i, title in enumerate(titles):
        row, column = divmod(i, across)
        bottom = height - HEAD - ROW * row - 0.32 - PANEL
        axis = fig.add_axes(((LEFT + column * step) / width, bottom / height, (step - GAP) / width, PANEL / height))
        axis.set_title(wrapped(title, int(step / 0.062), 2), loc="left", fontsize=7)
        axis.tick_params(labelleft=column == 0)
        axis.set_xlabel(x if i + across >= len(titles) else "")
        axis.set_ylabel(y if column == 0 else "")
        out.append((data[data["number"] == cells["number"].iloc[i]], axis))
    return fig, out


def cells_with(table: pd.DataFrame, *columns: str) -> set[str]:
    """Cells that have a value in one of these columns of a table, which may lack them all."""
    return set(table.loc[table[[c for c in columns if c in table]].notna().any(axis=1), "cell"]) if "cell" in table else set()


def paged(
    material: Material,
    there: Collection[str],
    frame: Callable[[Material], pd.DataFrame],
    figure: Callable[[pd.DataFrame, Size, int], Drawn],
    otherwise: str,
    per_page: int = PER_PAGE,
) -> Iterator[Drawn]:
    """One page of the most telling of the cells that are `there`, or as many as all of them need.

    frame: collects the data of a material, rows by `number` of a cell. otherwise: why there is no figure without any.
    """
    cells = [cell for cell in material.summary["cell"] if cell in there]
    shown = material.telling(cells, per_page)
    data = frame(replace(material, summary=material.summary[material.summary["cell"].isin(shown)]))
    if data.empty:
        raise Skipped(otherwise)
    numbers = data["number"].unique().tolist()
    for page, start in enumerate(range(0, len(numbers), per_page), 1):
        drawn = figure(data[data["number"].isin(numbers[start : start + per_page])], material.size, page)
        yield replace(drawn, caption=drawn.caption + left_out(len(shown), len(cells)))


def page_name(name: str, page: int) -> str:
    """`name`, `name-2`, `name-3`, …"""
    return name if page == 1 else f"{name}-{page}"
