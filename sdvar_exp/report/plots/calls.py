"""Target calls and target token-forwards by cell, or by strategy where there are many: fewer calls may cost more rows."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdvar_exp.registry import register
from sdvar_exp.report.material import Material, Skipped, images_of
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.style import INK, MUTED, Drawn, beside, data_hash, look, name_column, wrapped

NAME, TITLE = "target-calls-and-token-forwards", "Target calls and token-forwards"
PANELS = (("target_calls", "target calls per image", 1), ("target_token_forwards", "target token-forwards (reference = 1)", 2))
MOST_CELLS = 30


@register("figure", NAME, place=20)
def figures(material: Material) -> Iterator[Drawn]:
    """One figure."""
    data = frame(material.summary)
    if data.empty:
        raise Skipped("no cell has finished images")
    yield figure(data, material.size)


def frame(summary: pd.DataFrame) -> pd.DataFrame:
    """Cells with rows, means and intervals of both counts; of more than 30 cells one row per strategy.

    Then `<count>` is the mean of the cells' means, `_low` and `_high` their least and greatest.
    """
    columns = ["number", "name", "strategy", "is_baseline", "n"]
    columns += [f"{c}{end}" for c, _, _ in PANELS for end in ("", "_low", "_high")]
    out = summary.loc[summary["target_calls"].notna(), columns].reset_index(drop=True)
    for c, _, _ in PANELS:
        for end in ("_low", "_high"):
            out[c + end] = out[c + end].astype(float).fillna(out[c].astype(float))
    out["cells"] = 1
    return out if len(out) <= MOST_CELLS else _by_strategy(out)


def _by_strategy(cells: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for strategy, own in cells.groupby("strategy", sort=False):
        row = {
            "number": "",
            "name": f"{strategy} ({len(own)} cell{'s' * (len(own) > 1)})",
            "strategy": strategy,
            "is_baseline": bool(own["is_baseline"].all()),
            "n": int(own["n"].max()),  # cells share their images
        }
        for c, _, _ in PANELS:
            row |= {c: own[c].mean(), f"{c}_low": own[c].min(), f"{c}_high": own[c].max()}
        rows.append({**row, "cells": len(own)})
    return pd.DataFrame(rows, columns=list(cells))


def figure(data: pd.DataFrame, size: Size | None = None) -> Drawn:
    """Two panels that share the list of cells."""
    width, height = (size or Size()).full, 0.65 + 0.27 * len(data)
    fig = Figure((width, height))
    names = [f"{row.number}  {row.name}".strip() for row in data.itertuples(index=False)]
    left = name_column(names)
    names = [wrapped(name, int((left - 0.1) / 0.05), 2) for name in names]
    bottom, tall, step = 0.42 / height, 1 - 0.52 / height, (width - left) / 2
    for i, (column, label, digits) in enumerate(PANELS):
        axis = fig.add_axes(((left + step * i) / width, bottom, (step - 0.55) / width, tall))
        draw(data, axis, column, digits)
        axis.set_xlabel(label, fontsize=8 if width > 6 else 7)
        axis.set_yticks(range(len(data)), names if i == 0 else [""] * len(data), fontsize=6.5)
    grouped = (data["cells"] > 1).any()
    whiskers = "range of the cells' means" if grouped else "95 % intervals"
    caption = (
        f"Means per {'cell of a strategy' if grouped else 'image'}; whiskers: {whiskers}; dashed: the reference. Token-"
        "forwards: rows fed to the target × guidance halves ÷ those of the reference. "
        f"{images_of(data['n'], 'images a row')}."
    )
    return Drawn(NAME, TITLE, fig, data_hash(data), caption)


def draw(data: pd.DataFrame, axis: Axes, column: str, digits: int) -> None:
    """One bar per row with its whiskers, its value beside it; the reference's value as a line."""
    styles = look(data["strategy"].tolist())
    right = max(data[f"{column}_high"].max(), 1e-9)
    axis.set_xlim(0, 1.04 * right)
    axis.set_ylim(len(data) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(True, axis="x")
    for y, row in enumerate(data.to_dict("records")):
        mean, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
        axis.barh(y, mean, 0.62, color=styles[row["strategy"]][0], alpha=0.85)
        axis.plot([low, high], [y, y], color=INK, lw=0.9, solid_capstyle="butt")
        beside(axis, y, f"{mean:.{digits}f}")
    for value in sorted(set(data.loc[data["is_baseline"], column])):
        axis.axvline(value, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1.5)
