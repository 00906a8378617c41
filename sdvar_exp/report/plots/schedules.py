"""Guidance weight t_k by stage, one line per schedule that the cells use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdvar_exp.errors import UserError
from sdvar_exp.registry import choose, register
from sdvar_exp.report.material import Material, Skipped
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.style import MARKERS, PALETTE, Drawn, data_hash

NAME, TITLE = "guidance-schedules", "Guidance by stage"
MOST = 7


@register("figure", NAME, place=60)
def figures(material: Material) -> Iterator[Drawn]:
    """One figure, with the first seven schedules."""
    data = frame(material)
    if data.empty:
        raise Skipped("the cells name no guidance schedule that this version knows")
    yield figure(data, material.size)


def frame(material: Material) -> pd.DataFrame:
    """schedule, stage, weight (t_k), cells: how many cells use the schedule."""
    runs, stages = material.tables.runs, material.tables.stages
    columns = ["schedule", "stage", "weight", "cells"]
    if "config" not in runs or "stage" not in stages or stages.empty:
        return pd.DataFrame(columns=columns)
    last = int(stages["stage"].max())
    found: dict[str, list[Any]] = {}
    for cell in runs.sort_values("order", kind="stable").to_dict("records"):
        schedule = json.loads(cell["config"]).get("cfg_schedule") if isinstance(cell["config"], str) else None
        if isinstance(schedule, Mapping) and (weights := _weights(schedule, last + 1)) is not None:
            found.setdefault(_text(schedule), [weights, 0])[1] += 1
    rows = [(text, k, t, count) for text, (weights, count) in found.items() for k, t in enumerate(weights)]
    return pd.DataFrame(rows, columns=columns)


def _weights(schedule: Mapping[str, Any], stages: int) -> list[float] | None:
    """t_0 … t_{S-1}; None for a schedule of a plugin that is not installed here."""
    params = {k: v for k, v in schedule.items() if k not in ("name", "source")}
    try:
        choice = choose("cfg_schedule", schedule["name"], **params)
    except UserError:
        return None
    return [float(choice.entry.function(choice.params, k, stages)) for k in range(stages)]


def _text(schedule: Mapping[str, Any]) -> str:
    values = ", ".join(
        f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in schedule.items() if k not in ("name", "source")
    )
    return f"{schedule['name']} ({values})" if values else str(schedule["name"])


def figure(data: pd.DataFrame, size: Size | None = None) -> Drawn:
    """A plot of one column with its legend above."""
    names = list(dict.fromkeys(data["schedule"]))
    shown = data[data["schedule"].isin(names[:MOST])]
    width, head = (size or Size()).column, 0.16 * len(names[:MOST]) + 0.1
    height = 2.0 + head
    fig = Figure((width, height))
    draw(shown, fig.add_axes((0.5 / width, 0.4 / height, (width - 0.6) / width, 1.55 / height)))
    fig.legend(loc="upper left", bbox_to_anchor=(0.08, 1), fontsize=6.5, labelspacing=0.25)
    left_out = f" {len(names) - MOST} more schedules are not shown." if len(names) > MOST else ""
    caption = (
        "Weight t of each stage in (1+t)·conditional − t·unconditional logits, from the cells' configurations; nothing "
        f"is measured here.{left_out}"
    )
    return Drawn(NAME, TITLE, fig, data_hash(data), caption)


def draw(data: pd.DataFrame, axis: Axes) -> None:
    """One line with markers per schedule."""
    for i, (name, own) in enumerate(data.groupby("schedule", sort=False)):
        cells = int(own["cells"].iloc[0])
        axis.plot(
            own["stage"],
            own["weight"],
            MARKERS[i],
            ls="-",
            color=PALETTE[i],
            ms=3.2,
            lw=1,
            clip_on=False,
            label=f"{name}, {cells} cell{'s' * (cells > 1)}",
        )
    axis.set_xticks(range(int(data["stage"].max()) + 1))
    axis.set_ylim(0, max(float(data["weight"].max()), 0.1) * 1.05)
    axis.set_xlabel("stage k")
    axis.set_ylabel("guidance weight t")
    axis.grid(True)
