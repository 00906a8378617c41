"""`sdvar-exp export`: a cell's images for evaluators outside this project, or a study as a dataset."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from sdvar_exp.cli import FAILED
from sdvar_exp.cli.options import Parser, say_json
from sdvar_exp.cli.studies import cells, one_cell, split_cell, study_of, study_parser
from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand
from sdvar_exp.words import count, size

ABOUT = """The kept images of one cell as an npz in the layout of OpenAI's guided-diffusion evaluator (arr_0, uint8,
N×H×W×3), or as a folder of PNG files. The order is random but fixed, as the Inception Score needs it. Refuses while units
are missing, unless --partial. With --dataset, rows and images of all cells (or of one) as a folder that Hugging Face's
`datasets` and its Hub read: load_dataset("FOLDER")."""
EXAMPLE = """example, VAR's protocol (50 images of each of 1000 classes, resumable):
  sdvar-exp run experiment=var_50k
  sdvar-exp export var_50k --to samples.npz

  sdvar-exp export demo --dataset --to demo_dataset"""


def parser() -> Parser:
    known = study_parser("export", ABOUT, epilog=EXAMPLE)
    known.add_argument("--cell", help="its id, name or key=value; default: the only one with images", source=cells)
    known.add_argument("--to", required=True, type=expand, metavar="PATH", help="FILE.npz, or a folder for PNG files")
    known.add_argument(
        "--dataset", action="store_true", help="--to is a dataset folder: parquet with rows and images, and a card"
    )
    known.add_argument("--partial", action="store_true", help="export what there is, although units are missing")
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    if asked.cell and asked.study is None:
        asked.study, asked.cell = split_cell(asked.cell, Path(asked.results_dir))
    folder = study_of(asked)
    if asked.dataset:
        return _dataset(folder, asked.cell, asked.to, asked.json)
    from sdvar_exp.store.export import LABELS, shuffled, usable, write_folder, write_npz
    from sdvar_exp.store.images import unit_images

    cell = one_cell(asked.cell, folder) if asked.cell else _only(folder)
    files = unit_images(folder / "images" / cell)
    missing = _missing(folder, cell, {(label, seed) for label, seed, _ in files})
    if not files:
        raise UserError(f"cell {cell} of {folder} keeps no images: run it with images=all")
    if missing and not asked.partial:
        raise UserError(
            f"{count(missing, 'image')} of cell {cell} missing: run the command again to finish it (with "
            "images=all), or export what there is with --partial"
        )
    files, unusable = usable(files)
    for problem in unusable:
        print(f"error: left out: {problem}", file=sys.stderr)
    if not files:
        raise UserError(f"no image of cell {cell} of {folder} can be read: delete them and run the study again")
    paths = shuffled(files)
    said = {"cell": cell, "to": str(asked.to), "images": len(paths), "missing": missing, "unusable": len(unusable)}
    if asked.to.suffix == ".npz":
        shape = write_npz(paths, asked.to)
        text = f"{asked.to}  arr_0 uint8 {'×'.join(map(str, shape))}, {size(asked.to.stat().st_size)}"
    else:
        _own_folder(asked.to, {LABELS, *(f"{i:06d}{end}" for i in range(len(paths)) for end in (".png", ".part"))})
        text = f"{asked.to}  {count(len(paths), 'image')}, {write_folder(paths, asked.to)} new"
    say_json(said) if asked.json else print(text)
    return FAILED if unusable else 0


def _dataset(folder: Path, cell: str | None, out: Path, as_json: bool) -> int:
    from sdvar_exp.store import load_tables
    from sdvar_exp.store.dataset import FILES, write_dataset

    tables = load_tables(folder, stages=False)
    cells = [one_cell(cell, folder)] if cell else [c for c in tables.runs["cell"] if c in set(tables.samples["cell"])]
    if tables.samples[tables.samples["cell"].isin(cells)].empty:
        raise UserError(f"{folder} has no rows yet; run it first")
    _own_folder(out, FILES)
    rows, images = write_dataset(folder, tables, cells, out)
    said = {"to": str(out), "cells": len(cells), "rows": rows, "images": images}
    text = f"{out}  {count(rows, 'row')} of {count(len(cells), 'cell')}, {count(images, 'image')}"
    say_json(said) if as_json else print(text)
    return 0


def _only(folder: Path) -> str:
    from sdvar_exp.store.manifest import read_cells

    known = read_cells(folder)
    found = [cell for cell in known if any((folder / "images" / cell).glob("*_*.png"))]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{cell} {known[cell]['name']}" for cell in found)
    raise UserError(
        f"which cell of {folder}? --cell ID; with images: {listed}"
        if found
        else f"{folder} keeps no images: run it with images=all"
    )


def _missing(folder: Path, cell: str, have: set[tuple[int, int]]) -> int:
    """Count the planned units of a cell that have no image."""
    from sdvar_exp.store.manifest import planned_units, read_cells

    return len(set(planned_units(read_cells(folder)[cell])) - have)


def _own_folder(folder: Path, own: Collection[str]) -> None:
    """Refuse a folder that holds anything but an earlier export, whose names are `own`."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--to {folder} is a file; give FILE.npz or a folder")
    if foreign := {path.name for path in folder.iterdir()} - {*own} if folder.is_dir() else set():
        raise UserError(f"--to {folder} holds other files ({sorted(foreign)[0]}): give an empty or new folder")
