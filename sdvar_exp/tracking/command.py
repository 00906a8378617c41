"""The `push` command: send what is missing to W&B."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sdvar_exp.errors import UserError
from sdvar_exp.tracking.follower import push_in_child
from sdvar_exp.tracking.options import resolve


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all sent, 1 W&B did not take it, 2 bad usage."""
    parser = argparse.ArgumentParser(
        prog="push", description="Send studies to Weights & Biases from their ledgers; a second push sends nothing."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="STUDY", help="a study's folder, e.g. results/guide")
    parser.add_argument("--mode", choices=("offline", "online"), help="default: WANDB_MODE, else offline")
    parser.add_argument("--project", help="default: WANDB_PROJECT, else sdvar_exp")
    parser.add_argument("--entity", help="user or team; default: WANDB_ENTITY")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds per study (default 600)")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    log = logging.getLogger("sdvar_exp.push")
    code = 0
    try:
        options = resolve({"mode": args.mode, "project": args.project, "entity": args.entity}, {})
        for folder in args.folders:
            if not (folder / "manifest.json").is_file():
                raise UserError(f"there is no study at {folder}; give the folder that holds manifest.json")
            outcome = push_in_child(folder, options, args.timeout)
            log.info("%s", outcome.message or f"{folder}: nothing to send")
            code = code if outcome.ok else 1
    except UserError as error:
        log.error("error: %s", error)
        return 2
    return code
