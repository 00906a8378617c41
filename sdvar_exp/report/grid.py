"""Small panels with common axes, one per cell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdvar_exp.report.style import wrapped

PER_PAGE = 12
ROW, PANEL, HEAD, FOOT = 1.62, 0.98, 0.3, 0.42
"""Inches: height of a row, of the axes within it, of the legend above, of the axis labels below."""
LEFT, GAP = 0.5, 0.3


@dataclass(frozen=True)
class Panel:
    """Axes of one cell; first: at the left edge; bottom: nothing below it."""

    axis: Axes
    first: bool
    bottom: bool


def panels(titles: Sequence[str], width: float) -> tuple[Figure, list[Panel]]:
    """A figure of `width` inches with one panel per title, as many in a row as fit, up to three."""
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
        out.append(Panel(axis, column == 0, i + across >= len(titles)))
    return fig, out


def pages(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of cells, `PER_PAGE` at a time."""
    for start in range(0, len(numbers), PER_PAGE):
        yield list(numbers[start : start + PER_PAGE])


def page_name(name: str, page: int) -> str:
    """`name`, `name-2`, `name-3`, …"""
    return name if page == 1 else f"{name}-{page}"
