"""`sdvar-exp push`: send studies to W&B or another tracker; a second push sends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdvar_exp import registry
from sdvar_exp.cli import FAILED
from sdvar_exp.cli.options import MACHINES, Parser, say_json, seconds
from sdvar_exp.cli.studies import add_results_dir, find_study, studies
from sdvar_exp.errors import UserError
from sdvar_exp.words import count

if TYPE_CHECKING:
    from sdvar_exp.tracking import Outcome


def parser() -> Parser:
    known = Parser(
        prog="sdvar-exp push",
        description="Send studies from their ledgers to Weights & Biases or another tracker; a second push sends nothing.",
        json=MACHINES,
    )
    known.add_argument(
        "studies", nargs="+", metavar="STUDY", help="a study's folder, or its name in the results folder", source=studies
    )
    known.add_argument("--mode", choices=("offline", "online"), help="default: WANDB_MODE, else online")
    known.add_argument(
        "--to",
        default="wandb",
        metavar="TRACKER",
        help="a registered tracker: wandb (default), trackio, …",
        source=lambda _: registry.names("tracker"),
    )
    known.add_argument("--project", help="default: WANDB_PROJECT, else sdvar_exp")
    known.add_argument("--entity", help="user or team; default: WANDB_ENTITY")
    known.add_argument("--timeout", type=seconds, default=600.0, help="seconds per study (default 600)")
    add_results_dir(known)
    return known


def main(argv: list[str]) -> int:
    """Exit code: 0 all sent, 1 W&B did not take it."""
    asked = parser().parse_args(argv)
    from sdvar_exp.store.manifest import is_kept
    from sdvar_exp.tracking import push_in_child, resolve
    from sdvar_exp.tracking.pushed import Pushed

    said = {"mode": asked.mode, "tracker": registry.get("tracker", asked.to).name}
    options = resolve({**said, "project": asked.project, "entity": asked.entity}, {"mode": "online"})
    if options.mode == "none":
        raise UserError("W&B is turned off by WANDB_MODE or WANDB_DISABLED; to push all the same say --mode offline or online")
    folders = [find_study(study, Path(asked.results_dir)) for study in asked.studies]
    for folder in filter(is_kept, folders):
        raise UserError(f"{folder} was kept without its ledger, which is what is sent; run it again, or push it where it ran")
    outcomes, sent = [], []
    for folder in folders:
        before = dict(Pushed(folder, options.place).cells)
        outcome = push_in_child(folder, options, asked.timeout, asked.plugin)
        after = Pushed(folder, options.place).cells
        sent.append(sum(before.get(cell) != entry for cell, entry in after.items()))
        outcomes.append(outcome)
        if not asked.json:
            print(_said(folder, outcome, sent[-1], bool(after)), flush=True)
    if asked.json:
        listed = [
            {"study": str(f), "mode": options.place, "ok": o.ok, "sent": n, "message": o.message}
            for f, o, n in zip(folders, outcomes, sent, strict=True)
        ]
        say_json(listed)
    return 0 if all(outcome.ok for outcome in outcomes) else FAILED


def _said(folder: Path, outcome: Outcome, sent: int, ever: bool) -> str:
    """One sentence: the runs that W&B has now, and how many of them this push sent."""
    if not outcome.message:
        return f"{folder}: nothing to send"
    now = count(sent, "run") if sent else "nothing new"
    return f"{outcome.message}; sent now: {now}" if ever else outcome.message
