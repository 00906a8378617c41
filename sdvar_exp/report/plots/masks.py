"""Mask × strategy: how far the images move, and how fast the cells are, as heat maps with numbers."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdvar_exp.metrics.quantities import Metric, headline, metrics
from sdvar_exp.registry import register
from sdvar_exp.report.compare import pooled
from sdvar_exp.report.material import Material, Skipped, images_of
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.style import MUTED, ON_DARK, ON_LIGHT, Drawn, data_hash, wrapped

NAME, TITLE = "mask-by-strategy", "Mask × strategy"


def drawn() -> list[Metric]:
    """Draws the change of the images in each metric that figures show, then the speed of the cells."""
    return [*(m for m in metrics() if m.compares and m.drawn), headline("speed")]


@register("figure", NAME, place=50)
def figures(material: Material) -> Iterator[Drawn]:
    """One figure where at least two masks are there."""
    data = frame(material)
    if data["mask"].nunique() < 2:
        raise Skipped("needs cells with at least two masks")
    yield figure(data, material.size)


def frame(material: Material) -> pd.DataFrame:
    """strategy, mask, quantity, mean of `compare.pooled` over the images of that pair's cells, cells, n (images)."""
    runs = material.tables.runs
    columns = ["strategy", "mask", "quantity", "mean", "cells", "n"]
    if "mask" not in runs:
        return pd.DataFrame(columns=columns)
    masks = runs["mask_spec"].fillna(runs["mask"]) if "mask_spec" in runs else runs["mask"]
    known = material.summary.merge(runs[["cell"]].assign(mask=masks).dropna(), on="cell")
    samples = material.tables.samples
    rows = []
    for (strategy, mask), own in known.groupby(["strategy", "mask"], sort=False):
        for m in drawn():
            there = own.loc[own[m.name].notna(), "cell"]
            found = pooled(samples[samples["cell"].isin(there)], m)
            if found.mean is not None:
                rows.append((strategy, mask, m.name, found.mean, len(there), found.n))
    return pd.DataFrame(rows, columns=columns)


def figure(data: pd.DataFrame, size: Size | None = None) -> Drawn:
    """One heat map per quantity that is there, with common rows."""
    shown = [m for m in drawn() if (data["quantity"] == m.name).any()]
    masks, strategies = list(dict.fromkeys(data["mask"])), list(dict.fromkeys(data["strategy"]))
    width = (size or Size()).full
    left, tile = 1.45, 0.34
    height = tile * len(masks) + 0.72
    fig = Figure((width, height))
    step = (width - left) / len(shown)
    for i, m in enumerate(shown):
        axis = fig.add_axes(((left + i * step) / width, 0.44 / height, (step - 0.2) / width, tile * len(masks) / height))
        colours = "cividis_r" if m.better < 0 else "cividis"
        digits = f"{{:.{m.digits}f}}" + ("×" if m.ratio else "")
        draw(data[data["quantity"] == m.name], axis, masks, strategies, digits, colours)
        axis.set_title(m.plain_heading + (" to the reference" if m.compares else ""), loc="left", fontsize=7.5)
        axis.set_yticks(range(len(masks)), [wrapped(m, 25, 2) for m in masks] if i == 0 else [""] * len(masks), fontsize=6.5)
    caption = (
        f"{TITLE}: means over all cells with that mask and strategy (geometric for speed-ups), whatever their other "
        f"factors; in brackets how many cells. {images_of(data['n'], 'images a field')}. All masks but "
        "block_causal are out of distribution for the target."
    )
    return Drawn(NAME, TITLE, fig, data_hash(data), caption)


def draw(data: pd.DataFrame, axis: Axes, masks: list[str], strategies: list[str], digits: str, colours: str) -> None:
    """Fields with their number; hatched where there is no cell."""
    grid = data.pivot(index="mask", columns="strategy", values="mean").reindex(index=masks, columns=strategies)
    values = grid.to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    axis.imshow(values, cmap=colours, vmin=low, vmax=high if high > low else low + 1, aspect="auto")
    cells = data.set_index(["mask", "strategy"])["cells"]
    dark = matplotlib.colormaps[colours]
    for y, mask in enumerate(masks):
        for x, strategy in enumerate(strategies):
            if np.isnan(values[y, x]):
                axis.text(x, y, "–", ha="center", va="center", fontsize=6.5, color=MUTED)
                continue
            r, g, b, _ = dark((values[y, x] - low) / (high - low) if high > low else 0.0)
            ink = ON_DARK if 0.3 * r + 0.59 * g + 0.11 * b < 0.5 else ON_LIGHT
            text = f"{digits.format(values[y, x])} ({cells[mask, strategy]})"
            axis.text(x, y, text, ha="center", va="center", fontsize=6.5, color=ink)
    axis.set_xticks(range(len(strategies)), [_folded(s) for s in strategies], fontsize=6.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _folded(name: str) -> str:
    """A long name on two lines, broken behind its first underscore."""
    return name.replace("_", "_\n", 1) if len(name) > 10 else name
