"""`sdvar-exp merge A B --into C`: folders of one study, from several machines, as one; conflicts are listed."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from sdvar_exp.cli import FAILED
from sdvar_exp.cli.options import MACHINES, Parser, say_json
from sdvar_exp.cli.studies import add_results_dir, find_study, studies
from sdvar_exp.guest import expand
from sdvar_exp.words import count

SHOWN = 20


def parser() -> Parser:
    known = Parser(
        prog="sdvar-exp merge",
        description="Make one study of several folders of it. Equal rows of a unit are one; where rows differ they are listed "
        "and nothing is written. The folders stay as they are.",
        json=MACHINES,
    )
    known.add_argument(
        "studies", nargs="+", metavar="STUDY", help="folders of one study, the first counts first", source=studies
    )
    known.add_argument("--into", type=expand, required=True, metavar="FOLDER", help="the folder to make")
    known.add_argument("--keep-first", action="store_true", help="of rows that differ keep the one of the first folder")
    known.add_argument(
        "--allow-mixed", action="store_true", help="merge rows of other code, packages or devices too; they are tagged"
    )
    add_results_dir(known)
    return known


def main(argv: list[str]) -> int:
    """Exit code: 0 merged, 1 rows differ."""
    asked = parser().parse_args(argv)
    from sdvar_exp.store.merge import merge

    folders = [find_study(study, Path(asked.results_dir)) for study in asked.studies]
    found = merge(folders, asked.into, asked.allow_mixed, asked.keep_first)
    written = not found.conflicts or asked.keep_first
    if asked.json:
        say_json({"into": str(asked.into) if written else None, **asdict(found)})
        return 0 if written else FAILED
    for line in found.conflicts[:SHOWN]:
        print(f"{'note' if written else 'error'}: {line}", file=sys.stderr)
    if more := len(found.conflicts) - SHOWN:
        print(f"note: … and {more} more; --json lists all", file=sys.stderr) if more > 0 else None
    if not written:
        print("error: nothing was written; --keep-first keeps the rows of the first folder", file=sys.stderr)
        return FAILED
    if found.timings:
        print(f"note: {count(found.timings, 'timing')} of units that are timed elsewhere too left out", file=sys.stderr)
    equal = f", {count(found.equal, 'unit')} in several folders with equal rows" if found.equal else ""
    print(f"{count(found.rows, 'row')} of {count(found.cells, 'cell')}, {count(found.images, 'image')}{equal}")
    print(f"merged   {asked.into}\nfigures  sdvar-exp collect {asked.into}")
    return 0
