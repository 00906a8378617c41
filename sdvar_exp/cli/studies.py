"""Shared by the verbs that look at a study: finding studies and cells. No torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdvar_exp.cli.options import MACHINES, Parser
from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand
from sdvar_exp.store.files import is_study, studies_in
from sdvar_exp.words import count, did_you_mean, some

if TYPE_CHECKING:
    from sdvar_exp.plan import Plan

DEFAULT = "default"
"""The study of a command that names none."""


def study_parser(verb: str, description: str, epilog: str | None = None, json: str = MACHINES) -> Parser:
    """A parser with `[STUDY]`, `--results-dir` and `--json`. json: the help of the last."""
    parser = Parser(prog=f"sdvar-exp {verb}", description=description, epilog=epilog, json=json)
    what = "its folder, or its name in the results folder; default: the only one"
    parser.add_argument("study", nargs="?", help=what, source=studies)
    add_results_dir(parser)
    return parser


def add_results_dir(parser: Parser) -> None:
    parser.add_argument("--results-dir", type=expand, default="results", help="where studies lie (default: results)")


def studies(asked: argparse.Namespace) -> list[str]:
    """Names of the studies in the results folder of a command line that is being typed."""
    return [folder.name for folder in studies_in(Path(getattr(asked, "results_dir", "results")))]


def cells(asked: argparse.Namespace) -> list[str]:
    """Ids of the cells that may be typed next: of the study that was named, else of all; behind `STUDY:` with it."""
    from sdvar_exp.store.manifest import read_cells

    place, colon, _ = asked.current.rpartition(":")
    study = place or getattr(asked, "study", None)
    found = [study] if study else studies(asked)
    results = Path(getattr(asked, "results_dir", "results"))
    return [f"{place}{colon}{cell}" for name in found for cell in read_cells(find_study(name, results))]


def study_of(asked: argparse.Namespace) -> Path:
    """The folder of the study that a command line names."""
    return find_study(asked.study, Path(asked.results_dir))


def find_study(name: str | None, results_dir: Path) -> Path:
    """The folder of a study; `UserError` naming the studies there are."""
    known = [folder.name for folder in studies_in(results_dir)]
    if name is None:
        if len(known) == 1:
            return results_dir / known[0]
        raise UserError(f"which study? {_listed(known, results_dir)}")
    for folder in (expand(name), results_dir / name):
        if is_study(folder):
            return folder
    raise UserError(f"there is no study {name!r}{did_you_mean(name, known, _listed(known, results_dir))}")


def split_cell(word: str, results_dir: Path) -> tuple[str | None, str]:
    """`STUDY:CELL` in its two parts, where such a study is there; else None and the whole word."""
    place, _, cell = word.rpartition(":")
    there = place and any(map(is_study, (expand(place), results_dir / place)))
    return (place, cell) if there else (None, word)


def _listed(known: list[str], results_dir: Path) -> str:
    if known:
        return f"{results_dir} has {', '.join(known)}"
    return f"{results_dir} has none; give its folder, or --results-dir"


def match_cells(word: str, cells: Mapping[str, str], configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Ids of the cells that `word` means: an id or its first digits (four or more), a name or its first words, a pattern
    (`test3*`), or `key=value` of the configuration (`strategy=test3`, `acceptance.tau=0.7`). cells: name by id. May be empty.
    """
    key, equals, value = word.partition("=")
    if equals and " " not in key and not any(name == word for name in cells.values()):
        return [cell for cell in cells if _has(configs.get(cell, {}), key, value)]
    exact = [cell for cell, name in cells.items() if word in (cell, name)]
    if exact:
        return exact
    digits = [cell for cell in cells if len(word) >= 4 and cell.startswith(word)]
    return digits or [cell for cell, name in cells.items() if fnmatchcase(name, word) or name.startswith(f"{word} ")]


def _has(config: Mapping[str, Any], key: str, value: str) -> bool:
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, Mapping):
        found = found.get("name")
    if isinstance(found, bool):
        return str(found).lower() == value.lower()
    if isinstance(found, int | float):
        try:
            return float(value) == found
        except ValueError:
            return False
    return found is not None and str(found) == value


def one_cell(word: str, folder: Path) -> str:
    """The id of the one cell of a study that `word` means; `UserError` for none or several."""
    from sdvar_exp.store.manifest import read_cells

    about = read_cells(folder)
    names = {cell: str(c["name"]) for cell, c in about.items()}
    found = match_cells(word, names, {cell: c["config"] for cell, c in about.items()})
    if len(found) == 1:
        return found[0]
    if found:
        listed = some([f"{c} {names[c]}" for c in found])
        raise UserError(f"{word!r} means {len(found)} cells of {folder}: {listed}; give an id")
    has = f"it has {some([f'{c} {n}' for c, n in names.items()])}"
    raise UserError(f"{folder} has no cell {word!r}{did_you_mean(word, [*names.values(), *names], has)}")


def folder_notices(plan: Plan) -> list[str]:
    """Notices before a command adds to the folder of its study: kept without ledger, or of other commands."""
    from sdvar_exp.store.manifest import is_kept, read_cells

    folder = plan.folder
    if is_kept(folder):
        return [f"{folder} was kept without its ledger: a run decodes its units anew, and its tables become those of the run"]
    if plan.study != DEFAULT or not folder.is_dir():
        return []
    compared = {cell.id for planned in plan.cells for cell in plan.compared_with(planned.cell)}
    there, own = set(read_cells(folder)) - compared, {planned.id for planned in plan.cells} - compared
    if not there or there & own:
        return []
    return [f"{folder} holds {count(len(there), 'cell')} of other commands; study=NAME gives this one a folder of its own"]
