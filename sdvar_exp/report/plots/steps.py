"""One decode stage by stage: what the draft proposed, what was kept or replaced, what the image then was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image as mpl_image
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from sdvar_exp.registry import register
from sdvar_exp.report.classes import Classes
from sdvar_exp.report.grid import page_name
from sdvar_exp.report.material import Material, Skipped
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.source import of_unit
from sdvar_exp.report.style import INK, MUTED, Drawn, data_hash, wrapped
from sdvar_exp.store.images import STAGE_COLOURS, unit_images

NAME, TITLE = "stages-of-a-decode", "One decode, stage by stage"
ROWS = ("draft's\nproposal", "tokens of\nthe stage", "committed\nso far")
KINDS = {"kept": "kept", "replaced": "replaced", "target": "target alone", "draft": "draft, unjudged"}
MOST_CELLS = 4
MARKS = {
    "verified": "judged",
    "draft": "draft, unjudged",
    "target": "target alone",
    "target_draft": "target by draft",
    "target_unguided": "target, cond.",
    "target_exit": "target, early",
    "skipped": "left out",
}


@register("figure", NAME, place=110)
def figures(material: Material) -> Iterator[Drawn]:
    """The first unit of up to four cells, those first that replace tokens after a verdict, then those of several makers."""
    found = frame(material)
    if found.empty:
        raise Skipped("no images/<cell>/<label>_<seed>_stages.png: the study kept no picture of a decode's stages")
    for page, (_, data) in enumerate(found.groupby("cell", sort=False), 1):
        yield figure(data, material.images, page, material.size, material.classes)


def frame(material: Material) -> pd.DataFrame:
    """One row per stage of each shown decode: cell, name, label, seed, file, stage, source, passed, accepted_share."""
    rows: list[tuple[int, int, pd.DataFrame]] = []
    if "source" not in material.tables.stages:
        return pd.DataFrame()
    for cell in material.summary[~material.summary["is_baseline"].astype(bool)].itertuples(index=False):
        for label, seed, file in unit_images(material.images / cell.cell, "_stages")[:1]:
            own = of_unit(material.tables.stages, cell.cell, label, seed)
            with Image.open(file) as picture:
                tiles = round(picture.width / (picture.height / len(ROWS)))
            if len(own) == tiles:
                key = {
                    "cell": cell.cell,
                    "name": cell.name,
                    "number": cell.number,
                    "label": label,
                    "seed": seed,
                    "file": f"{cell.cell}/{file.name}",
                }
                shown = own[["stage", "source", "passed", "accepted_share"]].assign(**key)
                rows.append((int((own["source"] == "verified").sum()), own["source"].nunique(), shown))
    mixed = [row for row in rows if row[:2] > (0, 1)]  # what one model makes alone has nothing to tell apart
    ranked = sorted(mixed or rows, key=lambda row: (-row[0], -row[1]))[:MOST_CELLS]
    return pd.concat([own for *_, own in ranked], ignore_index=True) if ranked else pd.DataFrame()


def figure(data: pd.DataFrame, images: Path, page: int = 1, size: Size | None = None, classes: Classes | None = None) -> Drawn:
    """The sprite with its stages named above and its rows at the left."""
    width, left, head, stages = (size or Size()).full, 0.66, 0.5, len(data)
    tile = (width - left - 0.05) / stages
    height = head + len(ROWS) * tile + 0.05
    fig = Figure((width, height))
    draw(data, fig.add_axes((left / width, 0.05 / height, stages * tile / width, len(ROWS) * tile / height)), images)
    first = data.iloc[0]
    title = f"{first['number']}  {first['name']}, {(classes or Classes()).of(int(first['label']))}, seed {first['seed']}"
    fig.text(0.02, 1 - 0.06 / height, wrapped(title, int((width - 2.9) / 0.055), 1), fontsize=7, va="top", color=INK)
    marks = [Patch(color=_colour(kind), label=label) for kind, label in KINDS.items()]
    fig.legend(handles=marks, loc="upper right", ncols=4, fontsize=6, bbox_to_anchor=(1, 1.02), handlelength=1, columnspacing=1)
    caption = (
        "Top: the draft's proposal of each stage, decoded; blank where it proposed none. Middle: tokens of the stage, "
        "by where they come from. Bottom: the image of what is committed. Above: share of tokens "
        "accepted and the verdict; n = 1 decode, the first of the cell."
    )
    return Drawn(page_name(NAME, page), TITLE, fig, data_hash(data, images / first["file"]), caption)


def _colour(kind: str) -> tuple[float, float, float]:
    red, green, blue = (c / 255 for c in STAGE_COLOURS[kind])
    return red, green, blue


def draw(data: pd.DataFrame, axis: Axes, images: Path) -> None:
    """Pixels as they are; one tile is one unit."""
    stages, rows = len(data), len(ROWS)
    picture = mpl_image.imread(images / data["file"].iloc[0])
    axis.imshow(picture, extent=(0, stages, rows, 0), interpolation="none", vmin=0, vmax=1, cmap="gray")
    axis.set_axis_off()
    axis.set_xlim(0, stages)
    axis.set_ylim(rows, 0)
    for x in range(1, stages):
        axis.axvline(x, color="white", lw=1.2)
    for y in range(1, rows):
        axis.axhline(y, color="white", lw=1.2)
    for y, text in enumerate(ROWS):
        axis.text(-0.08, y + 0.5, text, ha="right", va="center", fontsize=6.5, color=INK)
    for i, row in enumerate(data.to_dict("records")):
        axis.text(i + 0.5, -0.06, _verdict(row), ha="center", va="bottom", fontsize=5.8, color=MUTED, linespacing=1.1)


def _verdict(row: dict[str, Any]) -> str:
    """Stage, and below it what happened to the proposal."""
    if row["source"] != "verified" or pd.isna(row["accepted_share"]):
        return f"stage {row['stage']}\n{MARKS.get(row['source'], row['source'])}".replace("draft, unjudged", "unjudged")
    passed = "" if pd.isna(row["passed"]) else (", passed" if row["passed"] else ", failed")
    return f"stage {row['stage']}\n{100 * row['accepted_share']:.0f} %{passed}"
