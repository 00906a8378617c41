"""`sdvar-exp validate`: whether what lies in a study's folder fits together; changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdvar_exp.cli import FAILED
from sdvar_exp.cli.options import Parser, say_json
from sdvar_exp.cli.studies import study_of, study_parser
from sdvar_exp.words import count

if TYPE_CHECKING:
    from sdvar_exp.store import Tables


@dataclass(frozen=True)
class Fault:
    """A fault of a study: what is wrong, where, and what to do about it."""

    what: str
    path: str
    text: str
    fix: str


def parser() -> Parser:
    known = study_parser(
        "validate",
        "Is a study whole: its ledger's records, cells, images and tables; exit code 1 if something is wrong. Changes nothing.",
    )
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    folder = study_of(asked)
    from sdvar_exp.store.records import watched

    with watched():  # what readers leave out is told below, each with what to do
        faults = list(_faults(folder))
    if asked.json:
        say_json({"folder": str(folder), "whole": not faults, "faults": [asdict(f) for f in faults]})
        return FAILED if faults else 0
    for fault in faults:
        print(f"{fault.what}: {fault.path}: {fault.text}\n  fix: {fault.fix}")
    print(f"{folder}: " + (count(len(faults), "fault") if faults else "whole"))
    return FAILED if faults else 0


def _faults(folder: Path) -> Iterator[Fault]:
    from sdvar_exp.store.manifest import is_kept
    from sdvar_exp.store.state import read_rows
    from sdvar_exp.store.tables import load_tables

    state = read_rows(folder)
    used = {cell for cell, _, _ in state.units}
    for line in state.damage:
        yield Fault("record", str(folder / "ledger"), line, "run the same command: its unit is decoded again")
    known = {path.stem for path in (folder / "cells").glob("*.json")}
    tables = load_tables(folder)
    for cell in sorted((known | used) - set(tables.runs["cell"])):
        why = "is damaged" if cell in known else "is missing, but there are rows of it"
        yield Fault("cell", f"{folder / 'cells' / cell}.json", why, "run a command that has the cell: it is written again")
    for note in tables.notes:
        if "was committed twice" in note:
            yield Fault("unit", str(folder / "ledger"), note, "the first row counts; find out which process made the other")
    yield from _ranges(folder, tables)
    yield from _images(folder, tables)
    if not is_kept(folder):
        yield from _tables(folder, tables)


def _ranges(folder: Path, tables: Tables) -> Iterator[Fault]:
    """Columns with values outside of what their metric can give."""
    from sdvar_exp.metrics.quantities import metrics

    for metric in metrics():
        if metric.name not in tables.samples or metric.values == "bool":
            continue
        values = tables.samples[metric.name].astype(float)
        least, most = metric.range
        slack = 1e-6 * max(1.0, *(abs(end) for end in (least, most) if abs(end) < float("inf")), 1.0)
        wrong = tables.samples[(values < least - slack) | (values > most + slack)]
        if len(wrong):
            first = wrong.iloc[0]
            where = f"cell {first['cell']}, label {first['label']}, seed {first['seed']}: {first[metric.name]:g}"
            text = f"{metric.name} of {count(len(wrong), 'row')} lies outside of {least:g} … {most:g}, first {where}"
            yield Fault("range", str(folder / "ledger"), text, "the rows are damaged, or the metric's declared range is wrong")


def _images(folder: Path, tables: Tables) -> Iterator[Fault]:
    """Images that cannot be read, images without a row, and cells of whose images some are gone."""
    from sdvar_exp.store.images import IMAGE_NAME

    rows = set(tables.samples[["cell", "label", "seed"]].itertuples(index=False, name=None))
    kept: dict[str, int] = defaultdict(int)
    for path in sorted(folder.glob("images/*/*.png")):
        name = IMAGE_NAME.fullmatch(path.name)
        if name is None:
            continue
        if reason := _unreadable(path):
            yield Fault("image", str(path), reason, "delete it, its row in the ledger stays; export and pages leave it out")
        elif (path.parent.name, int(name[1]), int(name[2])) not in rows:
            yield Fault("image", str(path), "it has no row", "sdvar-exp gc lists these and removes them with --delete")
        kept[path.parent.name] += not name[3]
    per_cell = tables.samples["cell"].value_counts()
    most = max((kept[cell] for cell in kept), default=0)
    for cell, images in kept.items():
        if images < min(most, int(per_cell.get(cell, 0))):
            text = f"has {images} samples, others {most}"
            yield Fault("images", str(folder / "images" / cell), text, "restore them; a row is not decoded again for its image")


def _unreadable(path: Path) -> str:
    """The reason for which a PNG cannot be read; empty where it can."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow raises many kinds for what is no image
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return ""


def _tables(folder: Path, tables: Tables) -> Iterator[Fault]:
    """Tables on disk that are not those of the ledger, by their stable columns."""
    import pandas as pd

    from sdvar_exp.store.columns import TABLES

    for name in TABLES:
        path = folder / "tables" / f"{name}.parquet"
        if not path.is_file():
            continue
        try:
            there = pd.read_parquet(path)
        except Exception as error:  # Arrow raises many kinds for a file that is not what it claims
            yield Fault(
                "table", str(path), f"cannot be read: {' '.join(str(error).split())[:100]}", f"sdvar-exp collect {folder}"
            )
            continue
        wanted: pd.DataFrame = getattr(tables, name)
        if len(there) != len(wanted):
            text = f"has {count(len(there), 'row')}, the ledger gives {len(wanted)}"
        elif list(there) != list(wanted) or not there.astype(str).equals(wanted.astype(str)):
            text = "its values are not those that the ledger gives"
        else:
            continue
        yield Fault("table", str(path), text, f"sdvar-exp collect {folder}")
