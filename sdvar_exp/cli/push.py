"""`sdvar-exp push`: send studies to W&B; a second push sends nothing."""

from __future__ import annotations

import json
from pathlib import Path

from sdvar_exp.cli.options import Parser
from sdvar_exp.cli.studies import add_results_dir, find_study
from sdvar_exp.errors import UserError

FAILED = 1


def main(argv: list[str]) -> int:
    """Exit code: 0 all sent, 1 W&B did not take it."""
    parser = Parser(prog="sdvar-exp push",
                    description="Send studies to Weights & Biases from their ledgers; a second push sends nothing.")
    parser.add_argument("studies", nargs="+", metavar="STUDY", help="a study's folder, or its name in the results folder")
    parser.add_argument("--mode", choices=("offline", "online"), help="default: WANDB_MODE, else offline")
    parser.add_argument("--project", help="default: WANDB_PROJECT, else sdvar_exp")
    parser.add_argument("--entity", help="user or team; default: WANDB_ENTITY")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds per study (default 600)")
    parser.add_argument("--json", action="store_true", help="for machines")
    add_results_dir(parser)
    asked = parser.parse_args(argv)
    from sdvar_exp.store.manifest import is_kept
    from sdvar_exp.tracking import push_in_child, resolve

    options = resolve({"mode": asked.mode, "project": asked.project, "entity": asked.entity}, {})
    if options.mode == "none":
        raise UserError("W&B is turned off by WANDB_MODE or WANDB_DISABLED; to push all the same say --mode offline or online")
    folders = [find_study(study, Path(asked.results_dir)) for study in asked.studies]
    for folder in filter(is_kept, folders):
        raise UserError(f"{folder} was kept without its ledger, which is what is sent; run it again, or push it where it ran")
    outcomes = []
    for folder in folders:
        outcome = push_in_child(folder, options, asked.timeout)
        outcomes.append(outcome)
        if not asked.json:
            print(outcome.message or f"{folder}: nothing to send", flush=True)
    if asked.json:
        listed = [{"study": str(f), "mode": options.mode, "ok": o.ok, "message": o.message}
                  for f, o in zip(folders, outcomes, strict=True)]
        print(json.dumps(listed, indent=1, ensure_ascii=False))
    return 0 if all(outcome.ok for outcome in outcomes) else FAILED
