"""Images side by side: baseline, cells, and below them what differs, amplified, from the PNG files of a study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import matplotlib.image as mpl_image
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdvar_exp.metrics.quantities import headline
from sdvar_exp.registry import register
from sdvar_exp.report.classes import Classes
from sdvar_exp.report.grid import page_name
from sdvar_exp.report.material import Material, Skipped, left_out
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.source import Tables, of_cell
from sdvar_exp.report.style import INK, MUTED, Drawn, data_hash, wrapped

NAME, TITLE = "images", "Images side by side"
MOST_PAGES = 2
CELLS_PER_PAGE = 7
UNITS = 4
GAP = 0.04
CAPTION = 0.16
"""Gap between tiles and height of a caption, in widths of a tile."""


@register("figure", NAME, place=100)
def figures(material: Material) -> Iterator[Drawn]:
    """Pages of at most seven cells; of more than two pages the most telling cells, or all."""
    own = material.summary[~material.summary["is_baseline"].astype(bool)]
    cells = [c for c in own["cell"] if any((material.images / c).glob("*_diff.png"))]
    shown = set(material.telling(cells, MOST_PAGES * CELLS_PER_PAGE))
    summary = material.summary[material.summary["is_baseline"].astype(bool) | material.summary["cell"].isin(shown)]
    found = pages(material.tables, summary, material.images, material.classes)
    kept = list(found if material.every else islice(found, MOST_PAGES))
    if not kept:
        raise Skipped("no picture files of a cell and its baseline for one unit (images=none keeps none)")
    note = left_out(sum(len(shown & set(data["cell"])) for data in kept), len(cells))
    for page, data in enumerate(kept, 1):
        drawn = figure(data, material.images, page, material.size)
        yield replace(drawn, caption=drawn.caption + note)


def pages(tables: Tables, summary: pd.DataFrame, images: Path, classes: Classes | None = None) -> Iterator[pd.DataFrame]:
    """One table of tiles per page: a baseline and at most seven of its cells, for at most four units with all files.

    Units are taken label by label, lowest seed first, so that a page shows as many labels as it can.
    """
    for baseline in summary.loc[summary["is_baseline"], "cell"]:
        cells = summary[(summary["baseline"] == baseline) & ~summary["is_baseline"]]
        cells = cells[[any((images / c).glob("*_diff.png")) for c in cells["cell"]]]
        across = -(-len(cells) // max(-(-len(cells) // CELLS_PER_PAGE), 1))  # pages of about equal width
        for start in range(0, len(cells), max(across, 1)):
            page = _tiles(tables, summary[summary["cell"] == baseline], cells[start : start + across], images, classes)
            if not page.empty:
                yield page


def figure(data: pd.DataFrame, images: Path, page: int, size: Size | None = None) -> Drawn:
    """All tiles of one page on one axis."""
    columns, rows = int(data["column"].max()) + 1, int(data["row"].max()) + 1
    width = (size or Size()).full
    margin, title = 0.62, 0.12 + 0.105 * (1 + data["title"].str.count("\n").max())
    tile = min((width - margin - 0.05) / (columns * (1 + GAP)), 1.35)
    width = margin + 0.05 + columns * (1 + GAP) * tile
    height = title + (rows * (1 + GAP + CAPTION) - GAP - CAPTION) * tile + 0.03
    fig = Figure((width, height))
    axis = fig.add_axes((margin / width, 0.03 / height, 1 - (margin + 0.05) / width, 1 - (title + 0.03) / height))
    draw(data, axis, images)
    shown = data.drop(columns="title")
    caption = (
        f"The reference's images (left) and those of cells from the same label, seed and noise; below each, |a−b| × 4. "
        f"Numbers: mean |a−b| on [0, 1]. n = {rows // 2} images a cell, lowest seed of each label first, not chosen."
    )
    return Drawn(page_name(NAME, page), TITLE, fig, data_hash(shown, *(images / file for file in data["file"])), caption)


def draw(data: pd.DataFrame, axis: Axes, images: Path) -> None:
    """Each tile at its column and row, pixels as they are; captions give the pixel difference."""
    columns, rows = int(data["column"].max()) + 1, int(data["row"].max()) + 1
    step_x, step_y = 1 + GAP, 1 + GAP + CAPTION
    for tile in data.itertuples(index=False):
        x, y = tile.column * step_x, tile.row * step_y
        picture = mpl_image.imread(images / tile.file)
        axis.imshow(picture, extent=(x, x + 1, y + 1, y), interpolation="none", vmin=0, vmax=1, cmap="gray")
        axis.text(x + 0.5, y + 1.02, tile.caption, ha="center", va="top", fontsize=6, color=MUTED)
        if tile.row == 0:
            axis.text(x + 0.5, -0.05, tile.title, ha="center", va="bottom", fontsize=6, color=INK, linespacing=1.1)
    for tile in data[data["column"] == 0].itertuples(index=False):
        y = tile.row * step_y
        axis.text(-0.06, y + 0.5, tile.side, ha="right", va="center", fontsize=6.5, color=INK)
        axis.text(-0.06, y + step_y + 0.5, "difference\n× 4", ha="right", va="center", fontsize=6.5, color=MUTED)
    axis.set_xlim(0, columns * step_x - GAP)
    axis.set_ylim(rows * step_y - GAP - CAPTION, 0)
    axis.set_axis_off()


def _tiles(tables: Tables, baseline: pd.DataFrame, cells: pd.DataFrame, images: Path, classes: Classes | None) -> pd.DataFrame:
    shown = pd.concat([baseline, cells])
    numbers = {c: of_cell(tables.samples, c).set_index(["label", "seed"])[headline("difference").name] for c in shown["cell"]}
    characters = int(14 * 8 / max(len(shown), 5))
    rows = []
    for i, (label, seed) in enumerate(_units(shown["cell"].tolist(), numbers, images)):
        for column, cell in enumerate(shown.itertuples(index=False)):
            difference = float(numbers[cell.cell].loc[label, seed])
            place = {"column": column, "cell": cell.cell, "title": wrapped(cell.name, characters, 4)}
            place["side"] = f"{(classes or Classes()).of(label)}\nseed {seed}"
            name = f"{cell.cell}/{label}_{seed}"
            caption = "mean |a−b|:" if column == 0 else ("equal" if difference == 0 else f"{difference:.3f}")
            rows.append({**place, "row": 2 * i, "file": f"{name}.png", "caption": caption})
            if column:
                rows.append({**place, "row": 2 * i + 1, "file": f"{name}_diff.png", "caption": ""})
    return pd.DataFrame(rows)


def _units(cells: list[str], numbers: dict[str, pd.Series], images: Path) -> list[tuple[int, int]]:
    """Units whose files are there for all cells, at most `UNITS`."""
    common = set.intersection(*(set(numbers[c].dropna().index) for c in cells))
    usable = [
        (label, seed)
        for label, seed in sorted(common)
        if all((images / c / f"{label}_{seed}.png").is_file() for c in cells)
        and all((images / c / f"{label}_{seed}_diff.png").is_file() for c in cells[1:])
    ]
    rank = pd.DataFrame(usable, columns=["label", "seed"]).groupby("label").cumcount().tolist()
    ordered = [unit for _, unit in sorted(zip(rank, usable, strict=True))]
    return sorted(ordered[:UNITS])
