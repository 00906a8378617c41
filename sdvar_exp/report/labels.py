"""Numbers beside markers that overlap neither each other nor a marker."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

RADII = (7.0, 8.5, 12.0, 17.0, 24.0, 32.0, 42.0)
ANGLES = tuple(math.radians(a) for a in (45, 135, -45, -135, 0, 90, 180, -90, 20, 70, 110, 160, -20, -70, -110, -160))
MARKER = 2.6
"""Half a marker's side, in points."""
LINE = 0.6
"""Half the width kept clear around a line, in points."""


def place_labels(
    axis: Axes,
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    lines: Sequence[tuple[float, float, float, float]] = (),
    size: float = 6.5,
) -> None:
    """Write each text near its data point; a thin line leads to those that had to move away.

    lines: horizontal or vertical lines to keep clear of, (x, y, x, y) from lower left to upper right. Axis limits and
    the axes' place in the figure must be final. Positions depend on nothing but the arguments.
    """
    points = 72 / axis.figure.dpi
    at = axis.transData.transform(np.column_stack([x, y])) * points
    corners = axis.transAxes.transform([(0, 0), (1, 1)]) * points
    taken = [(px - MARKER, py - MARKER, px + MARKER, py + MARKER) for px, py in at]
    for left, bottom, right, top in lines:
        (x0, y0), (x1, y1) = axis.transData.transform([(left, bottom), (right, top)]) * points
        taken.append((x0 - LINE, y0 - LINE, x1 + LINE, y1 + LINE))
    for i in np.lexsort((at[:, 1], at[:, 0])):
        half = 0.32 * size * len(texts[i]) + 0.5, 0.42 * size
        options = [(r * math.cos(a), r * math.sin(a)) for r in RADII for a in ANGLES]
        boxes = [_box(at[i] + offset, half) for offset in options]
        costs = [_overlap(box, taken) + 10 * _outside(box, corners) for box in boxes]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        leader = {"arrowstyle": "-", "lw": 0.4, "color": "#888888", "shrinkA": 0, "shrinkB": 2}
        axis.annotate(
            texts[i],
            (x[i], y[i]),
            xytext=options[best],
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            arrowprops=leader if math.hypot(*options[best]) > RADII[1] else None,
        )


Box = tuple[float, float, float, float]


def _box(centre: np.ndarray, half: tuple[float, float]) -> Box:
    (x, y), (w, h) = centre, half
    return x - w, y - h, x + w, y + h


def _overlap(box: Box, others: Sequence[Box]) -> float:
    """Area shared with other boxes, in square points."""
    area = 0.0
    for other in others:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        area += max(width, 0) * max(height, 0)
    return area


def _outside(box: Box, corners: np.ndarray) -> float:
    """By how many points the box leaves the axes."""
    (left, bottom), (right, top) = corners
    return float(max(left - box[0], 0) + max(bottom - box[1], 0) + max(box[2] - right, 0) + max(box[3] - top, 0))
