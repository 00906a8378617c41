"""Predicted against measured speed-up."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sdvar_exp.registry import register
from sdvar_exp.report.labels import place_labels
from sdvar_exp.report.material import Material, Skipped, images_of
from sdvar_exp.report.plots.tradeoff import MOST_NUMBERED, TICKS
from sdvar_exp.report.predicted import measured, predicted
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.style import MUTED, Drawn, data_hash, look, strategy_legend

NAME, TITLE = "predicted-vs-measured", "Predicted against measured speed-up"
COLUMNS = ["number", "strategy", "timed", "predicted", "speedup", "speedup_low", "speedup_high"]


@register("figure", NAME, place=80)
def figures(material: Material) -> Iterator[Drawn]:
    """One figure, from a profile or from fits to the other cells."""
    data = frame(material)
    if data.empty:
        raise Skipped("needs six timed cells of different counts, their baseline among them, or a profile (--profile)")
    yield figure(data, material.profile, material.size)


def frame(material: Material) -> pd.DataFrame:
    """Columns `COLUMNS`, one row per timed cell that can be predicted."""
    from sdvar_exp.store.timing import read_profile

    cells = measured(material.tables, material.summary)
    profile = None if material.profile is None else read_profile(material.profile)
    found = predicted(cells, profile) if len(cells) else cells
    if found.empty:
        return pd.DataFrame(columns=COLUMNS)
    out = found[COLUMNS].copy()
    for end in ("_low", "_high"):
        out[f"speedup{end}"] = pd.to_numeric(out[f"speedup{end}"]).astype(float).fillna(out["speedup"].astype(float))
    return out.reset_index(drop=True)


def figure(data: pd.DataFrame, profile: str | None = None, size: Size | None = None) -> Drawn:
    """A square plot of one column with the strategies above."""
    width = (size or Size()).column
    marks = strategy_legend(data["strategy"].tolist())
    across = max(1, int(width / 1.2))
    head = 0.15 * -(-len(marks) // across) + 0.1
    side = width - 0.62
    height = side + head + 0.45
    fig = Figure((width, height))
    draw(data, fig.add_axes((0.55 / width, 0.42 / height, side / width, side / height)))
    fig.legend(
        handles=marks,
        loc="upper left",
        ncols=across,
        bbox_to_anchor=(0.1, 1),
        fontsize=6.5,
        columnspacing=1,
        handletextpad=0.2,
        labelspacing=0.25,
    )
    ratio = (data["predicted"] / data["speedup"].astype(float)).map(lambda r: max(r, 1 / r))
    how = (
        f"from the profile {profile}"
        if profile
        else "by a cost per call and per row of each model, fitted for each cell to the times of the cells with other counts"
    )
    caption = (
        f"Speed-up predicted {how}, against the measured one with its 95 % interval; on the line they are equal. "
        f"Largest ratio of the two: {ratio.max():.2f}, median {ratio.median():.2f}, over {len(data)} cells. "
        f"{images_of(data['timed'], 'timed images a cell')}. Numbers: cells in the order of the table."
    )
    return Drawn(NAME, TITLE, fig, data_hash(data), caption)


def draw(data: pd.DataFrame, axis: Axes) -> None:
    """Both axes logarithmic with the same limits."""
    values = pd.concat([data["predicted"], data["speedup"]]).astype(float)
    low, high = values.min() / 1.35, values.max() * 1.35  # wider intervals leave the plot
    for scale in (axis.xaxis, axis.yaxis):
        scale.axes.set_xscale("log") if scale is axis.xaxis else scale.axes.set_yscale("log")
        scale.set_major_locator(FixedLocator(TICKS))
        scale.set_minor_locator(NullLocator())
        scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    axis.plot([low, high], [low, high], color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
    axis.grid(True)
    styles = look(data["strategy"].tolist())
    for row in data.itertuples(index=False):
        colour, marker = styles[row.strategy]
        axis.plot([row.predicted] * 2, [row.speedup_low, row.speedup_high], color=colour, lw=0.7, alpha=0.6, zorder=2)
        axis.plot(row.predicted, row.speedup, marker, ms=4.2, mfc=colour, mec="white", mew=0.4, zorder=3)
    if len(data) <= MOST_NUMBERED:
        lines = [(r.predicted, r.speedup_low, r.predicted, r.speedup_high) for r in data.itertuples(index=False)]
        place_labels(axis, data["predicted"].tolist(), data["speedup"].tolist(), [str(n) for n in data["number"]], lines, 6)
    axis.set_xlabel("predicted speed-up")
    axis.set_ylabel("measured speed-up")
