"""`sdvar-exp run`: compose the command, check the machine, hand the plan to the runner."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sdvar_exp.cli.options import Parser, help_wanted, run_help
from sdvar_exp.cli.studies import cells, kept_notice, match_cells
from sdvar_exp.config.arguments import words_parser
from sdvar_exp.config.folder import nearest_folder
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan
from sdvar_exp.words import count, did_you_mean


def parser() -> Parser:
    return _own(words_parser())


def _own(known: Parser) -> Parser:
    """Add the options that choose a part of the plan, and concern nobody else."""
    cell = "only these cells: id, name, pattern or key=value (strategy=test3), also as STUDY:CELL; may be repeated"
    known.add_argument("--only", action="append", nargs="?", const="", default=[], metavar="CELL", help=cell, source=cells)
    known.add_argument("--failed", action="store_true", help="only the units that failed before")
    return known


def main(argv: list[str]) -> int:
    if help_wanted(argv):
        print(run_help(parser(), argv))
        return 0
    from sdvar_exp.config import compose, multirun, passthrough

    asked = read_choice(argv)
    if passthrough.wants_hydra(asked.words):
        return passthrough.answer(asked.words, "sdvar-exp run")
    if multirun.wanted(asked.words):
        return sweep(asked)
    plan = compose(asked.words)
    kept = kept_notice(plan.folder)
    for notice in (*plan.notices, *([kept] if kept else [])):
        print(f"note: {notice}", file=sys.stderr)
    chosen = choose(plan, asked)
    if chosen is None:
        print(f"nothing of this command failed in {plan.folder}")
        return 0
    check_machine(chosen)
    from sdvar_exp.runner import run_study
    from sdvar_exp.screen import Screen

    return run_study(replace(chosen, argv=tuple(argv)), Screen())


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


def read_choice(argv: Sequence[str]) -> Choice:
    """Take `--only CELL` and `--failed` out of a command line."""
    asked, words = _own(Parser(common=False, add_help=False, allow_abbrev=False)).parse_known_args(list(argv))
    if not all(asked.only):
        raise UserError("--only needs a cell: an id, a name, a pattern or key=value")
    return Choice(tuple(words), tuple(asked.only), asked.failed)


def choose(plan: Plan, asked: Choice) -> Plan | None:
    """The part of a plan that `--only` and `--failed` ask for; None where nothing failed."""
    if asked.only:
        names = {p.cell.id: p.name for p in plan.cells}
        configs = {p.cell.id: p.cell.as_dict() for p in plan.cells}
        wanted: set[str] = set()
        for word in asked.only:
            found = match_cells(word, names, configs)
            if not found:
                hint = did_you_mean(word, [*names.values(), *names])
                raise UserError(f"--only {word}: no cell of this command is meant{hint}; sdvar-exp plan lists them")
            wanted |= set(found)
        plan = replace(plan, cells=tuple(p for p in plan.cells if p.cell.id in wanted))
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
    return replace(plan, cells=cells, only=units)


def check_machine(plan: Plan) -> None:
    """Raise `UserError` where the device is not there or results cannot be written; leaves nothing behind."""
    check_writable(plan.folder)
    if plan.settings.device.startswith("cuda"):
        from sdvar_exp.models.pair import resolve_device  # imports torch

        resolve_device(plan.settings.device)


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
