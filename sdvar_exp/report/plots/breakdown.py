"""The time of a decode by part: draft, target, accept, f̂ and the rest, stacked, one bar per timed cell."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sdvar_exp.metrics.statistics import mean_interval
from sdvar_exp.registry import register
from sdvar_exp.report.grid import page_name, paged
from sdvar_exp.report.material import Material, images_of
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.source import of_cell, true
from sdvar_exp.report.style import INK, PALETTE, Drawn, beside, data_hash, name_column, wrapped

NAME, TITLE = "time-breakdown", "Time of a decode by part"
PARTS = (
    ("draft_ms", "draft", PALETTE[1], ""),
    ("verify_ms", "target", PALETTE[0], ""),
    ("accept_ms", "accept", PALETTE[3], ""),
    ("fhat_ms", r"$\hat{f}$ and codes", PALETTE[2], ""),
    ("other_ms", "rest", "#bbbbbb", "////"),
)
PER_PAGE = 30


@register("figure", NAME, place=70)
def figures(material: Material) -> Iterator[Drawn]:
    """One page of thirty cells, or as many as all of them need."""
    timings = material.tables.timings
    there = set(timings.loc[~true(timings["contended"]), "cell"]) if "cell" in timings else set()
    why = "nothing was timed alone (timing.units=0, or only beside other work)"
    yield from paged(material, there, frame, figure, why, PER_PAGE)


def frame(material: Material) -> pd.DataFrame:
    """number, name, n, milliseconds: total with its interval, and its parts; means over units of the mean of repeats."""
    timings, rows = material.tables.timings, []
    names = [name for name, *_ in PARTS[:-1]]
    for cell in material.summary.itertuples(index=False):
        own = of_cell(timings, cell.cell)
        if own.empty or not set(names) <= set(own):
            continue
        own = own[~true(own["contended"])]
        units = own.groupby(["label", "seed"])[["cell_ms", *names]].mean().astype(float).reset_index()
        if units.empty or units[names].isna().all(axis=None):
            continue
        total = mean_interval(units["cell_ms"].to_numpy(), units["label"].to_numpy())
        parts = {name: float(units[name].fillna(0).mean()) for name in names}
        rest = max(float(total.mean or 0) - sum(parts.values()), 0.0)
        low, high = (total.mean if v is None else max(v, 0.0) for v in (total.low, total.high))
        rows.append(
            {
                "number": cell.number,
                "name": cell.name,
                "n": total.n,
                "total_ms": total.mean,
                "low": low,
                "high": high,
                **parts,
                "other_ms": rest,
            }
        )
    columns = ["number", "name", "n", "total_ms", "low", "high", *(name for name, *_ in PARTS)]
    return pd.DataFrame(rows, columns=columns)


def figure(data: pd.DataFrame, size: Size | None = None, page: int = 1) -> Drawn:
    """Horizontal bars below a legend."""
    width, height = (size or Size()).full, 0.85 + 0.25 * len(data)
    names = [f"{row.number}  {row.name}" for row in data.itertuples(index=False)]
    fig, room = Figure((width, height)), name_column(names)
    left = room / width
    axis = fig.add_axes((left, 0.42 / height, 1 - 0.45 / width - left, 1 - 0.75 / height))
    draw(data, axis)
    names = [wrapped(name, int((room - 0.1) / 0.05), 2) for name in names]
    axis.set_yticks(range(len(data)), names, fontsize=6.5)
    marks = [Patch(facecolor=colour, hatch=hatch, edgecolor="white", lw=0, label=label) for _, label, colour, hatch in PARTS]
    fig.legend(
        handles=marks,
        loc="upper left",
        ncols=5,
        bbox_to_anchor=(left - 0.01, 1),
        fontsize=6.5,
        columnspacing=1.2,
        handlelength=1.2,
    )
    caption = (
        "Milliseconds per image without the VAE decode: means over images of the mean over repeats. target: its "
        "forwards; f̂ and codes: committing tokens; rest: total less the parts. Whiskers: 95 % intervals of the total. "
        f"{images_of(data['n'], 'timed images a cell')}."
    )
    return Drawn(page_name(NAME, page), TITLE, fig, data_hash(data), caption)


def draw(data: pd.DataFrame, axis: Axes) -> None:
    """Stacked bars with the total beside them."""
    right = min(float(data["high"].max()), 1.4 * float(data["total_ms"].max()))  # wider intervals leave the plot
    axis.set_xlim(0, 1.04 * right)
    axis.set_ylim(len(data) - 0.4, -0.6)
    axis.grid(True, axis="x")
    axis.tick_params(axis="y", length=0)
    start = pd.Series(0.0, index=data.index)
    for name, _, colour, hatch in PARTS:
        axis.barh(range(len(data)), data[name], 0.66, start, color=colour, hatch=hatch, edgecolor="white", lw=0)
        start = start + data[name]
    for y, row in enumerate(data.itertuples(index=False)):
        end = min(row.high, right)
        axis.plot([row.low, end], [y, y], color=INK, lw=0.8, solid_capstyle="butt")
        if row.high > right:
            axis.plot(end, y, ">", color=INK, ms=2.5)
        beside(axis, y, f"{row.total_ms:.0f}")
    axis.set_xlabel("milliseconds per image")
