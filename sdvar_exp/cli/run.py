"""`sdvar-exp run`: compose the command, check the machine, hand the plan to the runner."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from sdvar_exp.cli.options import help_wanted, run_help
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan


def main(argv: list[str]) -> int:
    if help_wanted(argv):
        print(run_help("run", argv))
        return 0
    from sdvar_exp.config import compose, passthrough

    if passthrough.wants_hydra(argv):
        return passthrough.answer(argv, "sdvar-exp run")
    plan = compose(argv)
    for notice in plan.notices:
        print(f"note: {notice}", file=sys.stderr)
    check_machine(plan)
    from rich.console import Console

    from sdvar_exp.runner import run_study

    return run_study(plan, Console())


def check_machine(plan: Plan) -> None:
    """Raise `UserError` where the device is not there or results cannot be written; leaves nothing behind."""
    check_writable(plan.folder)
    if plan.settings.device.startswith("cuda"):
        from sdvar_exp.models.pair import resolve_device  # imports torch

        resolve_device(plan.settings.device)


def check_writable(folder: Path) -> None:
    """Try to write where the study will lie: in it, or in the nearest folder above it that exists."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"results folder {folder}: {place} is not a folder; choose another results_dir")
    try:
        with tempfile.TemporaryDirectory(prefix=".sdvar-exp-", dir=place):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"results folder {folder} cannot be written: {reason}; choose another results_dir") from error
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"results folder {folder} cannot be written; choose another results_dir")
