"""`sdvar-exp export`: a cell's images for evaluators outside this project."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sdvar_exp.cli.studies import find_study, one_cell, study_parser
from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand
from sdvar_exp.words import count, size

FAILED = 1
ABOUT = """The kept images of one cell as an npz in the layout of OpenAI's guided-diffusion evaluator (arr_0, uint8,
N×H×W×3), or as a folder of PNG files. The order is random but fixed, as the Inception Score needs it. Refuses while units
are missing, unless --partial."""
EXAMPLE = """example, VAR's protocol (50 images of each of 1000 classes, resumable):
  sdvar-exp run experiment=var_50k
  sdvar-exp export var_50k --to samples.npz"""


def main(argv: list[str]) -> int:
    parser = study_parser("export", ABOUT, epilog=EXAMPLE)
    parser.add_argument("--cell", help="its id, name or key=value; default: the only one with images")
    parser.add_argument("--to", required=True, type=expand, metavar="PATH", help="FILE.npz, or a folder for PNG files")
    parser.add_argument("--partial", action="store_true", help="export what there is, although units are missing")
    parser.add_argument("--json", action="store_true", help="for machines")
    asked = parser.parse_args(argv)
    folder = find_study(asked.study, Path(asked.results_dir))
    from sdvar_exp.store.export import sample_files, shuffled, usable, write_folder, write_npz

    cell = one_cell(asked.cell, folder) if asked.cell else _only(folder)
    files = sample_files(folder / "images" / cell)
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
        _own_folder(asked.to, len(paths))
        text = f"{asked.to}  {count(len(paths), 'image')}, {write_folder(paths, asked.to)} new"
    print(json.dumps(said, indent=1, ensure_ascii=False) if asked.json else text)
    return FAILED if unusable else 0


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
    """How many planned units of a cell have no image."""
    from sdvar_exp.store.manifest import planned_units, read_cells

    return len(set(planned_units(read_cells(folder)[cell])) - have)


def _own_folder(folder: Path, n: int) -> None:
    """Refuse a folder that holds anything but an earlier export of at most as many images."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--to {folder} is a file; give FILE.npz or a folder")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    from sdvar_exp.store.export import LABELS

    foreign = names - {LABELS} - {f"{i:06d}.png" for i in range(n)} - {f"{i:06d}.part" for i in range(n)}
    if foreign:
        raise UserError(f"--to {folder} holds other files ({sorted(foreign)[0]}): give an empty or new folder")
