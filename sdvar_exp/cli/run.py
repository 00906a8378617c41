"""`sdvar-exp run`: compose the command, check the machine, hand the plan to the runner."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdvar_exp.cli.options import Parser, help_wanted, run_help, tell
from sdvar_exp.cli.plan import with_remarks
from sdvar_exp.cli.studies import cells, find_study, folder_notices, match_cells, split_cell
from sdvar_exp.config.arguments import words_parser
from sdvar_exp.config.folder import nearest_folder
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan
from sdvar_exp.words import count, did_you_mean

Launch = Callable[[Mapping[str, Any]], None]


def parser() -> Parser:
    return _own(words_parser())


def _own(known: Parser) -> Parser:
    """Add the options that choose a part of the plan, and concern nobody else."""
    cell = (
        "only these cells: numbers of plan's list (3,7-9), id, name, pattern or key=value (strategy=test3), also as "
        "STUDY:CELL; CELL@LABEL,SEED is one image; may be repeated"
    )
    known.add_argument("--only", action="append", nargs="?", const="", default=[], metavar="CELL", help=cell, source=cells)
    known.add_argument("--failed", action="store_true", help="only the units that failed before")
    text = "print nothing but what went wrong, on standard error"
    known.add_argument("--quiet", "-q", action="store_true", help=text)
    text = "records for machines on standard output: launch, failures, done; what people read goes to standard error"
    known.add_argument("--json", action="store_true", help=text)
    return known


def main(argv: list[str]) -> int:
    if help_wanted(argv):
        print(run_help(parser(), argv))
        return 0
    from sdvar_exp.config import multirun, passthrough

    asked = read_choice(argv)
    if asked.json:
        from sdvar_exp.cli.announce import announced

        if passthrough.wants_hydra(asked.words) or multirun.wanted(asked.words):
            raise UserError("--json says what a run did; leave it out with Hydra's own flags, sweepers and launchers")
        return announced(lambda launch: run(asked, argv, launch))
    if passthrough.wants_hydra(asked.words):
        return passthrough.answer(asked.words, "sdvar-exp run")
    if multirun.wanted(asked.words):
        return sweep(asked)
    return run(asked, argv)


def run(asked: Choice, argv: Sequence[str], launch: Launch | None = None) -> int:
    """Compose, check, and run. launch: is told what is about to run; then standard output is left to the caller."""
    from sdvar_exp.config import compose

    plan = with_remarks(compose(asked.words))
    tell("note", () if asked.quiet else (*plan.notices, *folder_notices(plan)))
    chosen = choose(plan, asked)
    if chosen is None:
        if not asked.quiet:
            print(f"nothing of this command failed in {plan.folder}", file=sys.stderr if launch else sys.stdout)
        return 0
    check_machine(chosen)
    from sdvar_exp.runner import run_study
    from sdvar_exp.screen import Faults, Screen

    chosen = replace(chosen, argv=tuple(argv))
    screen = Faults(stderr=True, force_terminal=False) if asked.quiet else Screen(stderr=launch is not None)
    return int(run_study(chosen, screen, launch=launch) if launch else run_study(chosen, screen))


def sweep(asked: Choice) -> int:
    """Let Hydra's own sweeper and launcher choose the jobs; each adds to the study, and returns the objective."""
    if asked.only or asked.failed:
        raise UserError("--only and --failed do not go with hydra/sweeper and hydra/launcher; leave those out")
    from sdvar_exp.config import multirun

    code = multirun.run(asked.words, job)
    # a launcher such as submitit leaves what the jobs printed in files of its own
    print("note: Hydra's jobs have ended; `sdvar-exp status` and `sdvar-exp table` show what they left", file=sys.stderr)
    return code


def job(words: Sequence[str]) -> float | tuple[float, ...] | None:
    """One job of a Hydra sweeper: run it, and return what it is to be judged by.

    Raises `RuntimeError` if units failed, so that the sweeper counts the job as failed.
    """
    from sdvar_exp.api import Study

    study = Study(words)
    study.plan = replace(study.plan, shared=True)  # a launcher may run several jobs at once
    check_machine(study.plan)
    study.run(quiet=False)
    return study.objective()


@dataclass(frozen=True)
class Choice:
    """A command line: overrides and Hydra's flags, and which of the plan's cells are to be run."""

    words: tuple[str, ...]
    only: tuple[str, ...] = ()
    failed: bool = False
    json: bool = False
    quiet: bool = False


def read_choice(argv: Sequence[str]) -> Choice:
    """Take `--only CELL`, `--failed`, `--quiet` and `--json` out of a command line."""
    asked, words = _own(Parser(common=False, add_help=False, allow_abbrev=False)).parse_known_args(list(argv))
    if not all(asked.only):
        raise UserError("--only needs a cell: an id, a name, a pattern or key=value")
    return Choice(tuple(words), tuple(asked.only), asked.failed, asked.json, asked.quiet)


def choose(plan: Plan, asked: Choice) -> Plan | None:
    """The part of a plan that `--only` and `--failed` ask for; None where nothing failed."""
    if asked.only:
        plan = chosen_by_name(plan, asked.only)
    if not asked.failed:
        return plan
    from sdvar_exp.store.state import LedgerState

    failed = frozenset(
        key for key in LedgerState(plan.folder).update().failed if key[1] in plan.labels and key[2] in plan.seeds
    )
    cells = tuple(p for p in plan.cells if any(key[0] == p.cell.id for key in failed))
    units = frozenset(key for key in failed if any(key[0] == p.cell.id for p in cells))
    if not cells:
        return None
    print(f"note: {count(len(units), 'unit')} that failed, of {count(len(cells), 'cell')}", file=sys.stderr)
    units &= plan.only or units
    return replace(plan, cells=cells, only=units, until=None)


NUMBERS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
IMAGE = re.compile(r"(.+)@(\d+),(\d+)")


def chosen_by_name(plan: Plan, words: Sequence[str]) -> Plan:
    """The cells that `--only` names; where it names single images, only these, and what they are compared with."""
    names = {p.cell.id: p.name for p in plan.cells}
    configs = {p.cell.id: p.cell.as_dict() for p in plan.cells}
    wanted: set[str] = set()
    units: set[tuple[str, int, int]] = set()
    for word in words:
        image = IMAGE.fullmatch(word)
        place, cell = split_cell(image[1] if image else word, plan.folder.parent)
        if place and find_study(place, plan.folder.parent).resolve() != plan.folder.resolve():
            raise UserError(f"--only {word}: this command is of the study {plan.study}; give study={Path(place).name}")
        found = match_cells(cell, names, configs) or numbered(cell, list(names))
        if not found:
            hint = did_you_mean(cell, [*names.values(), *names])
            raise UserError(f"--only {word}: no cell of this command is meant{hint}; sdvar-exp plan lists them")
        wanted |= set(found)
        label, seed = (int(image[2]), int(image[3])) if image else (0, 0)
        if image and (label not in plan.labels or seed not in plan.seeds):
            raise UserError(
                f"--only {word}: label {label}, seed {seed} is no image of this command; add it to labels and seeds"
            )
        units |= (
            {(key, label, seed) for key in found} if image else {(key, u.label, u.seed) for key in found for u in plan.units}
        )
    cells = tuple(p for p in plan.cells if p.cell.id in wanted)
    if not any(IMAGE.fullmatch(word) for word in words):
        return replace(plan, cells=cells)
    beside = {
        (other.id, *key[1:]) for p in cells for other in plan.compared_with(p.cell) for key in units if key[0] == p.cell.id
    }
    return replace(plan, cells=cells, only=frozenset(units | beside), until=None)


def numbered(word: str, cells: Sequence[str]) -> list[str]:
    """The cells with these numbers, `3,7-9`, of the list that `plan` shows; none where a number is not in it."""
    if not NUMBERS.fullmatch(word):
        return []
    spans = [(int(first), int(last or first)) for first, _, last in (part.partition("-") for part in word.split(","))]
    if any(not 1 <= first <= last <= len(cells) for first, last in spans):
        raise UserError(
            f"--only {word}: the cells of this command have the numbers 1 to {len(cells)}; sdvar-exp plan lists them"
        )
    return [cells[n - 1] for first, last in spans for n in range(first, last + 1)]


def check_machine(plan: Plan) -> None:
    """Raise `UserError` where the device is not there or results cannot be written; leaves nothing behind."""
    check_writable(plan.folder)
    if plan.settings.enforce_clean:
        check_clean()
    if plan.settings.device.startswith("cuda"):
        from sdvar_exp.models.pair import resolve_device  # imports torch

        resolve_device(plan.settings.device)


def check_clean() -> None:
    """Raise `UserError` where the code that would run is not that of a commit (`enforce_clean=true`)."""
    from sdvar_exp.store.provenance import git_state

    state = git_state()
    if state is None:
        raise UserError("enforce_clean=true: the code lies in no git checkout, or git is missing; run from a checkout")
    if state["dirty"]:
        raise UserError("enforce_clean=true: the code or conf/ differs from the commit; commit it, or drop enforce_clean")


def check_writable(folder: Path) -> None:
    """Try to write where the study will lie: in it, or in the nearest folder above it that exists."""
    place = nearest_folder(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".sdvar-exp-", dir=place):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"results folder {folder} cannot be written: {reason}; choose another results_dir") from error
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"results folder {folder} cannot be written; choose another results_dir")
