"""`sdvar-exp gc`: files that nothing needs; lists them, and removes them only with --delete."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sdvar_exp.cli import FAILED
from sdvar_exp.cli.options import Parser, say_json
from sdvar_exp.cli.studies import study_of, study_parser
from sdvar_exp.errors import UserError
from sdvar_exp.store.images import IMAGE_NAME
from sdvar_exp.words import count, size

FRESH_S = 3600.0  # a detached worker may be about to write the row of an image that young


@dataclass(frozen=True)
class Waste:
    """A file or folder, why nothing needs it, and its size in bytes. cell: whose records go with the file."""

    path: Path
    why: str
    bytes: int
    cell: str = ""


def parser() -> Parser:
    known = study_parser(
        "gc",
        "Find what nothing needs: temporary files, images without a row, cells that were planned, "
        "never decoded and that the last command no longer has, and cells of entries whose code was changed since. "
        "No other row is touched; nothing younger than an hour is. Of a study with damaged records "
        "images and cells stay: they may belong to those.",
    )
    known.add_argument("--delete", action="store_true", help="remove what is listed")
    known.add_argument("--dry-run", action="store_true", help="list only: the default")
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    if asked.delete and asked.dry_run:
        raise UserError("--delete and --dry-run exclude each other")
    folder = study_of(asked)
    if asked.delete:
        from sdvar_exp.store import Study
        from sdvar_exp.store.lock import StudyLock

        lock = StudyLock(folder / "lock")
        lock.acquire()  # no run may begin, or be at work, meanwhile
        try:
            found = list(waste(folder))
            stays = {one.path: why for one in found if (why := remove(one.path, one.cell))}
            if any(one.cell for one in found):
                Study(folder).write_tables()
        finally:
            lock.release()
    else:
        found, stays = list(waste(folder)), {}
    for path, why in stays.items():
        print(f"error: {path} stays: {why}", file=sys.stderr)
    if asked.json:
        listed = [{"path": str(w.path), "why": w.why, "bytes": w.bytes, "stays": stays.get(w.path)} for w in found]
        say_json({"deleted": asked.delete, "found": listed})
        return FAILED if stays else 0
    found = [one for one in found if one.path not in stays]
    for one in found:
        print(f"{one.path}  {one.why}")
    total = f"{count(len(found), 'thing')}, {size(sum(w.bytes for w in found))}"
    print(f"removed {total}" if asked.delete else f"{total} to remove" + ("; remove with --delete" if found else ""))
    return FAILED if stays else 0


def waste(folder: Path) -> Iterator[Waste]:
    """Everything in a study that nothing needs; of one whose records are damaged, no more than temporary files."""
    from sdvar_exp.store.manifest import read_cells, superseded
    from sdvar_exp.store.records import left_out
    from sdvar_exp.store.state import read_rows

    before = left_out()
    ledger = read_rows(folder)
    cells = read_cells(folder)
    damaged = left_out() - before
    for path in sorted(folder.rglob(".*.tmp")):
        if "wandb" not in path.relative_to(folder).parts and _old(path):
            yield Waste(path, "a temporary file of a write that broke off", _bytes(path))
    if damaged:
        print(f"error: images and cells of {folder} stay: they may belong to what is left out", file=sys.stderr)
        return
    old = superseded(folder)
    for cell, new in old.items():
        places = [folder / "images" / cell, folder / "cells" / f"{cell}.json"]
        why = f"{cells[cell]['name']}: its entry was changed since, now it is {new}"
        rows = sum(unit[0] == cell for unit in ledger.units)
        yield from (Waste(path, why, sum(map(_bytes, path.rglob("*")))) for path in places[:1] if path.is_dir())
        yield Waste(places[1], f"{why}; with {count(rows, 'row')}", _bytes(places[1]), cell)
    wanted = {cell for body in ledger.sessions[-1:] for cell in body.get("cells", ())}
    used = {cell for cell, _, _ in ledger.units}
    baselines = {str(about["baseline"]) for cell, about in cells.items() if cell in used | wanted}
    stale = {cell for cell in cells if wanted and cell not in used | wanted | baselines | old.keys()}
    for cell in sorted(stale):
        path = folder / "cells" / f"{cell}.json"
        yield Waste(path, f"{cells[cell]['name']}: planned, never decoded, not in the last command", _bytes(path))
    for place in sorted((folder / "images").glob("*")):
        if place.is_dir() and place.name not in old:
            yield from _images(place, ledger.units, known=place.name in used)


def _images(place: Path, units: Collection[tuple[str, int, int]], known: bool) -> Iterator[Waste]:
    if not known:
        if all(_old(path) for path in place.rglob("*")):
            yield Waste(place, "images of a cell without a row", sum(_bytes(p) for p in place.rglob("*")))
        return
    for path in sorted(place.glob("*.png")):
        found = IMAGE_NAME.fullmatch(path.name)
        if found and (place.name, int(found[1]), int(found[2])) not in units and _old(path):
            yield Waste(path, "an image without a row", _bytes(path))


def _old(path: Path) -> bool:
    """Whether nobody can be at work on a file any more; false for one that is gone meanwhile."""
    try:
        return time.time() - path.stat().st_mtime > FRESH_S
    except OSError:
        return False


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def remove(path: Path, cell: str = "") -> str:
    """Remove a file or a folder, the link where it is one; why it stays, empty where it is gone (also before).

    cell: of a study, whose records are removed before its file in `cells/`.
    """
    from sdvar_exp.store.ledger import forget

    try:
        if cell:
            forget(path.parent.parent / "ledger", cell)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return ""
