"""`sdvar-exp dashboard`: a W&B workspace and a report of a study, made by code."""

from __future__ import annotations

import json
import sys

from sdvar_exp.cli import FAILED
from sdvar_exp.cli.options import Parser, say_json
from sdvar_exp.cli.studies import study_of, study_parser
from sdvar_exp.guest import kept_random_state


def parser() -> Parser:
    known = study_parser(
        "dashboard",
        "Make a W&B workspace and a report of a study: trade-off, acceptance by stage, speed-up "
        "by strategy, images. Push the study first. Needs the extra 'dashboards' and a login.",
        json="the addresses for machines",
    )
    known.add_argument("--project", help="default: WANDB_PROJECT, else sdvar_exp")
    known.add_argument("--entity", help="user or team; default: WANDB_ENTITY")
    known.add_argument("--dry-run", action="store_true", help="print what would be sent, as JSON; needs no server")
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    folder = study_of(asked)
    from sdvar_exp.tracking import PushError, resolve
    from sdvar_exp.tracking.dashboard import as_plain, build, facts_of, save

    options = resolve({"mode": "online", "project": asked.project, "entity": asked.entity}, {})
    with kept_random_state():
        dashboards = build(facts_of(folder), options)
    if asked.dry_run:
        say_json(as_plain(dashboards))
        return 0
    try:
        addresses = list(save(dashboards, options))
        print(json.dumps(addresses) if asked.json else "\n".join(map(str, addresses)))
    except PushError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    return 0
