"""The effect of each factor, and how two depend on each other: paired changes of the headline metrics with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sdvar_exp.metrics.quantities import headline
from sdvar_exp.registry import register
from sdvar_exp.report.effects import drawn, effects, interactions
from sdvar_exp.report.grid import page_name
from sdvar_exp.report.material import Material, Skipped, images_of
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.soundness import alarm
from sdvar_exp.report.style import INK, MUTED, PALETTE, UNSOUND, Drawn, data_hash, wrapped

NAME = "factor-effects"
TWO = "factor-interactions"
RATIOS = (0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10)
PER_PAGE = 24
SURE = 0.05


@dataclass(frozen=True)
class About:
    """Name and caption of a figure of changes, and the way a change is written.

    says: of which differences. averaged: what they are averaged over. more: which of them are shown where not all are.
    lines: of a change's text.
    """

    name: str
    title: str
    says: str
    averaged: str
    more: str
    lines: int = 1


EFFECTS = About(
    NAME,
    "Effect of each factor",
    "Paired differences between cells that differ in one factor alone, from the value of the study's reference where it has "
    "one, averaged over such pairs; 95 % intervals. ",
    "pairs of cells",
    "changes, the largest of each factor",
)
INTERACTIONS = About(
    TWO,
    "Interactions of two factors",
    "The first factor's change at the second value of the other less that at its first value (of ratios: ÷), averaged over "
    "squares of four cells that agree in all else; 95 % intervals. ",
    "squares of cells",
    "pairs of changes",
    lines=2,
)


@register("figure", NAME, place=90)
def figures(material: Material) -> Iterator[Drawn]:
    """One page of 24 changes, or as many as all of them need."""
    data = effects(material.tables, most=None if material.every else PER_PAGE)
    if data.empty:
        raise Skipped("no two cells differ in one factor alone")
    shown = data[["factor", "change"]].drop_duplicates() if material.every else largest(data, PER_PAGE)
    yield from _pages(data, shown, material, EFFECTS)


@register("figure", TWO, place=91)
def pairs_of_factors(material: Material) -> Iterator[Drawn]:
    """One page of 24 pairs of changes, or as many as all of them need."""
    data = interactions(material.tables, most=None if material.every else PER_PAGE)
    if data.empty:
        raise Skipped("no four cells differ in two factors alone")
    for both in ("factor", "change"):
        data[both] += " × " + data[both.replace("factor", "by").replace("change", "by_change")]
    data = data.rename(columns={"squares": "pairs"})
    yield from _pages(data, data[["factor", "change"]].drop_duplicates(), material, INTERACTIONS)


def _pages(data: pd.DataFrame, shown: pd.DataFrame, material: Material, about: About) -> Iterator[Drawn]:
    total = data.attrs["changes"]
    note = f" Shown: {len(shown)} of {total} {about.more}; `figures --all` draws all." if len(shown) < total else ""
    for page, start in enumerate(range(0, len(shown), PER_PAGE), 1):
        part = data.merge(shown.iloc[start : start + PER_PAGE])
        yield figure(part, material.size, page, alarm(material.summary), about, note)


def largest(data: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many changes, in their order: of every factor in turn the one that moves the images most."""
    changes = data[["factor", "change"]].drop_duplicates().reset_index(drop=True)
    moved = data[data["metric"] == headline("difference").name].set_index(["factor", "change"])["effect"].astype(float).abs()
    size = moved.reindex(pd.MultiIndex.from_frame(changes)).fillna(0).to_numpy()
    rank = changes.assign(size=-size).groupby("factor")["size"].rank(method="first")
    chosen = changes.assign(rank=rank, size=-size).sort_values(["rank", "size"], kind="stable").index[:most]
    return changes.loc[sorted(chosen)]


def figure(
    data: pd.DataFrame, size: Size | None = None, page: int = 1, warning: str = "", about: About = EFFECTS, note: str = ""
) -> Drawn:
    """A panel per metric; rows are changes, grouped by factor. warning: why times are not sound; speed-ups are grey then."""
    changes = list(data[["factor", "change"]].drop_duplicates().itertuples(index=False, name=None))
    places = _places(changes)
    shown = [m for m in drawn() if (data["metric"] == m.name).any()]
    width, left = (size or Size()).full, 0.36
    height = 0.8 + (0.1 + 0.09 * about.lines) * (max(places.values()) + 1)
    fig = Figure((width, height))
    step = (0.985 - left) / len(shown)
    for i, m in enumerate(shown):
        axis = fig.add_axes((left + i * step, 0.56 / height, step - 0.025, 1 - 0.62 / height))
        draw(data[data["metric"] == m.name], axis, places, m.ratio, bool(warning) and m.timed)
        axis.set_xlabel(f"{m.plain_heading},\nratio" if m.ratio else f"change of\n{m.plain_heading}", fontsize=7)
    characters = int(left * width / 0.058)
    for (factor, change), y in places.items():
        fig.axes[0].text(
            -0.04,
            y,
            wrapped(change, characters, about.lines),
            transform=fig.axes[0].get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=6.3,
            color=INK,
        )
        if (factor, change) == next(c for c in changes if c[0] == factor):
            fig.text(0.012, 1, factor, transform=_beside(fig, y - 1), fontsize=6.5, va="center", weight="bold", color=INK)
    caption = (
        f"{about.says}Filled: differs from no effect at {SURE:g} after Holm's correction over the rows of a panel (sign "
        "flips), and the interval leaves it out. "
        f"{images_of(data['n'], 'images a row')}; {images_of(data['pairs'], about.averaged).removeprefix('n = ')}."
        f"{f' Grey: {warning}.' if warning else ''}{note}"
    )
    return Drawn(page_name(about.name, page), about.title, fig, data_hash(data), caption)


def _places(changes: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """Line of each change; a factor's name takes one line above its first."""
    places, y, before = {}, -1.0, None
    for factor, change in changes:
        y += 1 if factor == before else 2
        places[factor, change], before = y, factor
    return places


def _beside(fig: Figure, y: float) -> object:
    """x in shares of the figure, y at a line of the first panel."""
    from matplotlib.transforms import Affine2D, blended_transform_factory

    panel = fig.axes[0]
    return blended_transform_factory(fig.transFigure, Affine2D().translate(0, y - 1) + panel.transData)


def draw(data: pd.DataFrame, axis: Axes, places: dict[tuple[str, str], float], ratio: bool, unsound: bool = False) -> None:
    """Points with intervals at their lines; filled where significant; grey where the times behind them are not sound."""
    colour = UNSOUND if unsound else PALETTE[0]
    none = 1.0 if ratio else 0.0
    axis.set_ylim(max(places.values()) + 0.7, -0.5)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.axvline(none, color=MUTED, lw=0.8)
    axis.grid(True, axis="x")
    for row in data.to_dict("records"):
        y = places[row["factor"], row["change"]]
        axis.axhline(y, color="#eeeeee", lw=0.5, zorder=0)
        if not pd.isna(row["low"]):
            axis.plot([row["low"], row["high"]], [y, y], color=colour, lw=1, solid_capstyle="butt", zorder=2)
        sure = row["p_holm"] < SURE and (pd.isna(row["low"]) or not row["low"] <= none <= row["high"])
        axis.plot(row["effect"], y, "o", ms=3.8, mfc=colour if sure and not unsound else "white", mec=colour, mew=0.9, zorder=3)
    if ratio:
        _ratio_axis(data, axis)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(2))


def _ratio_axis(data: pd.DataFrame, axis: Axes) -> None:
    axis.set_xscale("log")
    values = pd.concat([data["effect"], data["low"], data["high"]]).dropna().astype(float)
    low, high = min(values.min(), 0.95) / 1.05, max(values.max(), 1.05) * 1.05
    axis.set_xlim(low, high)
    inside: list[float] = [1]
    for tick in sorted(RATIOS, key=lambda t: -abs(log(t))):  # from the outside in, none closer than a quarter of the width
        if low <= tick <= high and all(abs(log(tick / other)) > 0.23 * log(high / low) for other in inside):
            inside.append(tick)
    axis.xaxis.set_major_locator(FixedLocator(inside))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
