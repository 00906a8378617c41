"""`sdvar-exp plan`: cells, units and duplicates of a command; imports no torch and touches no model."""

from __future__ import annotations

import json
import sys

from sdvar_exp.cli.options import help_wanted, run_help
from sdvar_exp.plan import Plan


def main(argv: list[str]) -> int:
    if help_wanted(argv):
        print(run_help("plan", argv))
        return 0
    from sdvar_exp.config import compose, passthrough

    if passthrough.wants_hydra(argv):
        return passthrough.answer(argv, "sdvar-exp plan")
    as_json = "--json" in argv
    plan = compose([word for word in argv if word != "--json"])
    if as_json:
        print(json.dumps(as_dict(plan), indent=1, ensure_ascii=False))
        return 0
    for notice in plan.notices:
        print(f"note: {notice}", file=sys.stderr)
    print(text(plan))
    return 0


def added_baselines(plan: Plan) -> int:
    """How many `sequential` cells the runner adds, to compare with."""
    ids = {planned.cell.id for planned in plan.cells}
    return len({planned.cell.baseline().id for planned in plan.cells} - ids)


def text(plan: Plan) -> str:
    """The plan for people."""
    lines = [f"{planned.cell.id}  {planned.name}" for planned in plan.cells]
    extra = added_baselines(plan)
    cells = _count(len(plan.cells), "cell") + (f" + {_count(extra, 'baseline')} to compare with" if extra else "")
    units = (len(plan.cells) + extra) * len(plan.labels) * len(plan.seeds)
    lines += ["", f"{cells} × {_count(len(plan.labels), 'label')} × {_count(len(plan.seeds), 'seed')} = {units} units"]
    lines += [f"labels {_numbers(plan.labels)}; seeds {_numbers(plan.seeds)}; results go to {plan.folder}"]
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _numbers(values: tuple[int, ...]) -> str:
    if len(values) > 3 and values == tuple(range(values[0], values[-1] + 1)):
        return f"{values[0]} … {values[-1]}"
    return ", ".join(str(v) for v in values)


def as_dict(plan: Plan) -> dict[str, object]:
    """The plan for machines."""
    return {
        "study": plan.study, "results_dir": str(plan.results_dir), "labels": list(plan.labels),
        "seeds": list(plan.seeds), "units": len(plan.cells) * len(plan.labels) * len(plan.seeds),
        "baselines_added": added_baselines(plan), "notices": list(plan.notices),
        "cells": [{"id": p.cell.id, "name": p.name, "overrides": list(p.overrides),
                   "config": p.cell.as_dict()} for p in plan.cells],
    }
