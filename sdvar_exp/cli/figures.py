"""`sdvar-exp figures`: every figure of a study, from its tables; no model is loaded."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdvar_exp.cli.options import Parser, say_json
from sdvar_exp.cli.studies import study_of, study_parser
from sdvar_exp.guest import expand

if TYPE_CHECKING:
    from sdvar_exp.report.figures import Written

EXAMPLES = """\
Figures that the data do not allow are skipped, with a line saying why; one that raises loses only itself (exit code 1). Equal
data and versions give equal bytes. Of many cells a figure shows the most telling ones and says how many it leaves out.

  sdvar-exp figures demo
  sdvar-exp figures demo --only images --only factor-effects
  sdvar-exp figures demo --venue neurips --out paper/figures
"""


def parser() -> Parser:
    from sdvar_exp.report.sizes import VENUES

    known = study_parser(
        "figures",
        "Write a study's figures as PDF, PNG and SVG.",
        EXAMPLES,
        "what was drawn, and why what was not, for machines",
    )
    known.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="only this figure; may be repeated", source=figure_names
    )
    known.add_argument(
        "--venue",
        metavar="NAME",
        help="width and type of a venue: icml, neurips, iclr, cvpr, eccv, aaai, …",
        source=lambda _: VENUES,
    )
    known.add_argument("--out", type=expand, metavar="DIR", help="folder to write to (default: figures/ of the study)")
    known.add_argument(
        "--profile",
        metavar="FILE",
        help="cost profile to predict speed-ups from (docs/cost-model.md); "
        "without one, costs are fitted to the other cells' times",
    )
    known.add_argument("--all", action="store_true", help="all cells in figures of many panels, not the most telling ones")
    known.add_argument("--list", action="store_true", help="list the figures there can be")
    return known


def figure_names(asked: argparse.Namespace) -> list[str]:
    """Names of the figures there can be, as the files that register them say: to import those takes seconds."""
    from sdvar_exp import registry

    return registry.written("figure")


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    from sdvar_exp.report import figures
    from sdvar_exp.report.sizes import size_of

    if asked.list:
        names = [entry.name for entry in figures.known()]
        print(json.dumps(names, indent=1) if asked.json else "\n".join(names))
        return 0
    figures.chosen(asked.only)
    size_of(asked.venue)
    if asked.profile is not None:
        from sdvar_exp.store.timing import read_profile

        read_profile(asked.profile)
    folder = study_of(asked)
    out = asked.out or folder / "figures"
    out.mkdir(parents=True, exist_ok=True)  # before anything is drawn: a folder that cannot be made takes no minutes
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    figures.log.addHandler(handler)
    before, figures.log.level = figures.log.level, logging.INFO
    try:
        written = figures.write_figures(folder, out, only=asked.only, venue=asked.venue, profile=asked.profile, every=asked.all)
    finally:
        figures.log.removeHandler(handler)
        figures.log.setLevel(before)
    if asked.json:
        say_json(_as_dict(folder, out, written))
        return 0 if written and not written.failed else 1
    for path in written:
        if path.suffix == ".pdf":
            print(f"{path.stem:34} {path} .png .svg")
    if not written and not written.failed:
        print(f"no figure: {folder} has none of the data that they need")
    return 0 if written and not written.failed else 1


def _as_dict(folder: Path, out: Path, written: Written) -> dict[str, Any]:
    """The figures that this command drew, as the folder's index lists them."""
    from sdvar_exp.report.figures import INDEX

    index = json.loads((out / INDEX).read_text(encoding="utf-8")) if written else {"figures": [], "skipped": {}}
    names = {path.stem for path in written}
    return {
        "folder": str(folder),
        "out": str(out),
        "skipped": index["skipped"],
        "failed": written.failed,
        "figures": [entry for entry in index["figures"] if entry["name"] in names],
    }
