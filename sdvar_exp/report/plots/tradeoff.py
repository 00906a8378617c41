"""Speed-up against pixel difference, and against Fréchet distance: one numbered marker per cell, Pareto front marked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sdvar_exp.metrics.quantities import Metric, headline, metrics
from sdvar_exp.registry import register
from sdvar_exp.report.labels import place_labels
from sdvar_exp.report.material import Material, Skipped, images_of
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.soundness import alarm, front, sound
from sdvar_exp.report.style import INK, MUTED, PALETTE, UNSOUND, Drawn, data_hash, look, strategy_legend, wrapped

PLOT = 3.7
"""Inches of height for the plot and its axis labels."""
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
PAPER: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
MOST_NUMBERED = 24
"""Cells with a number; of more, those on the front alone."""
COLUMNS = [
    "number",
    "name",
    "strategy",
    "is_baseline",
    "n",
    "timed",
    "speedup",
    "speedup_low",
    "speedup_high",
    "x",
    "x_low",
    "x_high",
    "guide",
    "pareto",
    "sound",
]


@dataclass(frozen=True)
class Quantity:
    """The x axis, smaller being better: column of the table, words for the axis, the vertical guide line and the caption."""

    name: str
    title: str
    column: str
    axis: str
    guide: str
    caption: str
    zero: bool = True


def of_metric(m: Metric) -> Quantity:
    """Speed-up against a metric of images; the guide line is another seed of the baseline, where that was measured."""
    words = m.says.removesuffix(".")
    floor = "; another seed: the difference between two seeds of the reference" if m.has_floor else ""
    return Quantity(
        f"speedup-vs-{m.plain_heading.replace(' ', '-')}",
        f"Speed-up against {m.plain_heading}",
        m.name,
        f"{m.plain_heading} to the reference",
        "another seed",
        f"{words}{floor}",
    )


FRECHET = Quantity(
    "speedup-vs-frechet-distance",
    "Speed-up against Fréchet distance",
    "fd_real",
    "Fréchet distance to real images",
    "reference",
    "Fréchet distance to the real test images in the features of the shipped classifier (not comparable with Inception's); "
    "line: the reference's own distance",
    zero=False,
)


@register("figure", "speedup-vs-pixel-difference", place=10)
def figures(material: Material) -> Iterator[Drawn]:
    """The figure of pixel differences, then one for each metric of users that compares images."""
    head = headline("difference")
    for m in (head, *(m for m in metrics() if m.compares and m.drawn and m is not head)):
        data = frame(material.summary, m)
        if len(data):
            yield _warned(figure(data, of_metric(m), material.size), material)
        elif m is head:
            raise Skipped(f"no cell has both a speed-up and a {m.plain_heading} (timing.units=0 times nothing)")


@register("figure", "speedup-vs-frechet-distance", place=15)
def frechet_figures(material: Material) -> Iterator[Drawn]:
    """The figure of Fréchet distances, from tables/quality.parquet."""
    quality = material.quality
    if quality.empty:
        raise Skipped("tables/quality.parquet is not there; make it with `sdvar-exp quality STUDY`")
    data = frechet_frame(material.summary, quality)
    if data.empty:
        notes = [note for note in quality["note"].dropna().unique() if note]
        raise Skipped("no timed cell has a Fréchet distance" + (f": {notes[0]}" if notes else ""))
    yield _warned(figure(data, FRECHET, material.size), material)


def _warned(drawn: Drawn, material: Material) -> Drawn:
    """The figure with the alarm about times, if there is one, before its caption."""
    warning = alarm(material.summary)
    return replace(drawn, caption=f"{warning[0].upper()}{warning[1:]}. {drawn.caption}") if warning else drawn


def frame(summary: pd.DataFrame, m: Metric | None = None) -> pd.DataFrame:
    """Timed cells that have the metric (default: the headline difference); `guide`: of another seed. Columns `COLUMNS`."""
    m = m or headline("difference")
    guide = summary[f"noise_{m.name}"] if m.has_floor else pd.Series(float("nan"), summary.index)
    return _frame(summary, of_metric(m), guide)


def frechet_frame(summary: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """Timed cells with a Fréchet distance to real images; `guide` is the distance of the cell's baseline."""
    wanted = [f"fd_real{end}" for end in ("", "_low", "_high")]
    own = quality.set_index("cell")[wanted].reindex(summary["cell"]).reset_index(drop=True)
    joined = pd.concat([summary.reset_index(drop=True), own], axis=1)
    return _frame(joined, FRECHET, joined["baseline"].map(dict(zip(joined["cell"], joined["fd_real"], strict=True))))


def _frame(summary: pd.DataFrame, quantity: Quantity, guide: pd.Series) -> pd.DataFrame:
    """A cell is on the Pareto front if no other has at least its speed-up and at most its x, see `soundness.front`."""
    out = summary.assign(guide=pd.to_numeric(guide).astype(float).to_numpy())
    for end in ("", "_low", "_high"):
        out[f"x{end}"] = pd.to_numeric(out[f"{quantity.column}{end}"]).astype(float)
        out[f"speedup{end}"] = pd.to_numeric(out[f"speedup{end}"]).astype(float)
    out = out[out["speedup"].notna() & out["x"].notna()].reset_index(drop=True)
    for c in ("speedup", "x"):
        for end in ("_low", "_high"):
            out[c + end] = out[c + end].fillna(out[c])
    out["sound"] = sound(out)
    out.loc[out["is_baseline"].astype(bool), "speedup"] = 1.0  # by definition; its interval is that of the A/A timing
    return out.assign(pareto=front(out, "x"))[COLUMNS]


def figure(data: pd.DataFrame, quantity: Quantity | None = None, size: Size | None = None) -> Drawn:
    """The plot with the key to its numbers below, in columns."""
    quantity = quantity or of_metric(headline("difference"))
    width = (size or Size()).full
    named = data if len(data) <= MOST_NUMBERED else data[data["pareto"] | data["is_baseline"]]
    across = 2 if width > 4.5 else 1
    step = (width - 0.35) / across
    names = [wrapped(name, int((step - 0.4) / 0.055), 2) for name in named["name"]]
    half = -(-len(names) // across)
    columns = [list(range(i * half, min((i + 1) * half, len(names)))) for i in range(across)]
    key = max(sum(_height(names[i]) for i in c) for c in columns) + 0.12
    legend = 0.22 if len(named) < len(data) else 0.0
    height = PLOT + key + legend
    fig = Figure((width, height))
    below = key + legend
    axis = fig.add_axes((0.6 / width, (below + 0.5) / height, (width - 0.7) / width, (PLOT - 0.58) / height))
    draw(data, axis, quantity)
    _key(fig.add_axes((0, 0, 1, key / height), xlim=(0, width), ylim=(0, key)), named, names, columns, step, key)
    if legend:
        fig.legend(
            handles=strategy_legend(data["strategy"].tolist()),
            loc="upper left",
            fontsize=6.5,
            ncols=7,
            bbox_to_anchor=(0.1 / width, (below + 0.08) / height),
            columnspacing=1,
            handletextpad=0.1,
        )
    caption = (
        f"{quantity.title}. y: reference time ÷ cell time, paired, geometric mean; x: {quantity.caption}. Filled: no "
        "other cell is both faster and closer (Pareto front, dotted). Crosses: 95 % intervals; band: the reference timed "
        f"against itself (A/A). {images_of(data['n'])}, {images_of(data['timed'], 'timed').removeprefix('n = ')}."
    )
    return Drawn(quantity.name, quantity.title, fig, data_hash(data), caption)


def draw(data: pd.DataFrame, axis: Axes, quantity: Quantity) -> None:
    """x: the quantity's mean; y: speed-up, logarithmic; crosses are 95 % intervals."""
    _frame_axis(data, axis, quantity)
    styles = look(data["strategy"].tolist())
    guides = sorted(set(data["guide"].dropna()))
    for i, guide in enumerate(guides):
        axis.axvline(guide, color=MUTED, lw=0.8, ls=(0, (4, 3)))
        at: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (-3, 0), "textcoords": "offset points"}
        turned: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "top"}
        if i == 0:  # of several baselines the lines may lie side by side
            text = quantity.guide + ("s" if len(guides) > 1 else "")
            axis.annotate(text, (guide, 0.98), fontsize=6.5, color=MUTED, **at, **turned)
    front = data[data["pareto"]].sort_values(["x", "speedup"])
    axis.step(front["x"], front["speedup"], where="post", color=INK, lw=0.8, ls=":", zorder=1.5)
    faint = 0.6 if len(data) <= MOST_NUMBERED else 0.3
    _bands(data, axis)
    for row in data.itertuples(index=False):
        colour, marker = styles[row.strategy]
        colour = colour if row.sound else UNSOUND
        if row.is_baseline:
            axis.plot(row.x, row.speedup, marker, ms=4.8, mfc="white", mec=colour, mew=0.9)
            continue
        x_error = [[row.x - row.x_low], [row.x_high - row.x]]
        y_error = [[row.speedup - row.speedup_low], [row.speedup_high - row.speedup]]
        axis.errorbar(row.x, row.speedup, y_error, x_error, color=colour, lw=0.7, alpha=faint, zorder=2)
        fill = colour if row.pareto else "white"
        axis.plot(row.x, row.speedup, marker, ms=4.8, mfc=fill, mec=colour, mew=0.9)
    named = data if len(data) <= MOST_NUMBERED else data[data["pareto"] | data["is_baseline"]]
    numbers = [str(n) for n in named["number"]]
    place_labels(axis, named["x"].tolist(), named["speedup"].tolist(), numbers, _lines(data, front))


def _bands(data: pd.DataFrame, axis: Axes) -> None:
    """The A/A timing of each reference as a band around 1, and, where it leaves its own, that times say nothing."""
    bases = data[data["is_baseline"].astype(bool)]
    for row in bases.itertuples(index=False):
        axis.axhspan(row.speedup_low, row.speedup_high, color=MUTED, alpha=0.14, lw=0, zorder=0.5)
    if len(bases):
        offset: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (-3, 2), "textcoords": "offset points"}
        axis.annotate("band: A/A", (1, 1), ha="right", va="bottom", fontsize=6, color=MUTED, bbox=PAPER, **offset)
    if not data["sound"].all():
        text = "These times are not to be relied on (see the caption): no front, no colours."
        axis.text(0.012, 0.985, text, transform=axis.transAxes, va="top", fontsize=7, color=PALETTE[1], bbox=PAPER)


def _frame_axis(data: pd.DataFrame, axis: Axes, quantity: Quantity) -> None:
    guides = data["guide"].dropna()
    right = max([*data["x_high"], *guides, 1e-3])
    left = 0.0 if quantity.zero else min([*data["x_low"], *guides])
    axis.set_xlim(left - 0.04 * (right - left), right + 0.08 * (right - left))
    axis.set_yscale("log")
    axis.set_ylim(min(data["speedup_low"].min(), 1) / 1.18, max(data["speedup_high"].max(), 1) * 1.18)
    axis.yaxis.set_major_locator(FixedLocator(TICKS))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.grid(True)
    axis.axhline(1, color=MUTED, lw=0.8)
    axis.set_xlabel(quantity.axis)
    axis.set_ylabel("speed-up (reference time ÷ cell time)")


def _lines(data: pd.DataFrame, front: pd.DataFrame) -> list[tuple[float, float, float, float]]:
    """Lines that labels keep clear of: the line at 1, the front, the intervals."""
    left, right = data["x_low"].min(), data["x_high"].max()
    lines: list[tuple[float, float, float, float]] = [(left - right, 1, 2 * right, 1)]
    for a, b in zip(front.itertuples(index=False), front.iloc[1:].itertuples(index=False), strict=False):
        lines += [(a.x, a.speedup, b.x, a.speedup), (b.x, a.speedup, b.x, b.speedup)]
    for row in data.itertuples(index=False):
        lines.append((row.x_low, row.speedup, row.x_high, row.speedup))
        lines.append((row.x, row.speedup_low, row.x, row.speedup_high))
    return lines


def _key(axis: Axes, data: pd.DataFrame, names: list[str], columns: list[list[int]], step: float, top: float) -> None:
    """Numbers, markers and names in columns; units are inches."""
    axis.set_axis_off()
    styles = look(data["strategy"].tolist())
    for place, column in enumerate(columns):
        x, y = 0.3 + place * step, top
        for i in column:
            row = data.iloc[i]
            colour, marker = styles[row["strategy"]]
            colour = colour if row["sound"] else UNSOUND
            axis.plot(x, y - 0.05, marker, ms=4.8, mfc=colour if row["pareto"] else "white", mec=colour, mew=0.9)
            axis.text(x + 0.24, y, str(row["number"]), fontsize=6.5, ha="right", va="top", color=INK)
            axis.text(x + 0.3, y, names[i], fontsize=6.5, va="top", color=INK, linespacing=1.15)
            y -= _height(names[i])


def _height(name: str) -> float:
    """Inches that a name takes in the key."""
    return 0.118 * (name.count("\n") + 1) + 0.045
