"""`sdvar-exp status`: how far studies are, and who is at work on them; from ledgers and locks alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdvar_exp.cli import FAILED
from sdvar_exp.cli.options import Parser, say_json, tell
from sdvar_exp.cli.studies import find_study, study_parser
from sdvar_exp.errors import UserError
from sdvar_exp.store.files import studies_in
from sdvar_exp.words import count, roughly


def parser() -> Parser:
    known = study_parser("status", "How far studies are: units done, failed and pending, and whether one is running.")
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    results = Path(asked.results_dir)
    folders = [find_study(asked.study, results)] if asked.study else studies_in(results)
    if not folders:
        raise UserError(f"{results} has no study; give --results-dir, or start one with sdvar-exp run")
    states, problems = [], []
    for folder in folders:
        try:
            states.append(state_of(folder))
        except UserError as error:
            problems.append(error)
    tell("error", problems)
    if not states:
        return problems[0].exit_code
    if asked.json:
        say_json(states)
        return FAILED if problems else 0
    for place, state in enumerate(states):
        print(("\n" if place else "") + "\n".join(text(state, cells=len(states) == 1)))
    return FAILED if problems else 0


def state_of(folder: Path) -> dict[str, Any]:
    """State of a study as plain data. lock: `free`, `live` or `stale`."""
    from sdvar_exp.engines.squeue import status_lines
    from sdvar_exp.store.lock import holder_of
    from sdvar_exp.store.manifest import is_kept, planned_units, read_cells, read_manifest, refusal_today, timings_of
    from sdvar_exp.store.state import read_rows

    manifest = read_manifest(folder) or {}
    ledger = read_rows(folder, tracebacks=True)
    done = Counter(cell for cell, _, _ in ledger.units)
    failed = Counter(cell for cell, _, _ in ledger.failed)
    timings, cells = ledger.timings_by_cell(), []
    for cell, about in read_cells(folder).items():
        planned = planned_units(about)
        pending = sum((cell, *unit) not in ledger.units for unit in planned)
        cells.append(
            {
                "id": cell,
                "name": about["name"],
                "planned": len(planned),
                "done": done[cell],
                "failed": failed[cell],
                "pending": pending,
                "timings": timings[cell],
                "timings_planned": timings_of(about),
            }
        )
    found = holder_of(folder / "lock")
    lock: dict[str, Any] = {"state": "free"} if found is None else {"state": "live" if found[1] else "stale", **found[0]}
    seconds = ledger.seconds_for({c["id"]: c["pending"] for c in cells})
    pending = sum(c["pending"] for c in cells)
    untimed = sum(max(0, c["timings_planned"] - c["timings"]) for c in cells)
    return {
        "study": manifest.get("study", folder.name),
        "folder": str(folder),
        "created": manifest.get("created"),
        "lock": lock,
        "done": sum(c["done"] for c in cells),
        "failed": sum(c["failed"] for c in cells),
        "pending": pending,
        "sessions": len(ledger.sessions),
        "ledger": not is_kept(folder),
        "last_record_s_ago": None if ledger.last is None else max(0, time.time() - ledger.last),
        "seconds_left": seconds,
        "untimed": untimed,
        "timing_seconds_left": None if (each := ledger.timing_seconds()) is None else each * untimed,
        "failures": [
            {key: body.get(key) for key in ("cell", "label", "seed", "attempt", "error", "traceback")}
            for body in ledger.failed.values()
        ],
        "damage": ledger.damage,
        "jobs": status_lines(folder),
        "refused": refusal_today(folder),
        "cells": cells,
    }


def _last_failures(state: Mapping[str, Any]) -> list[str]:
    """The last failure of each cell that has any, with its traceback; the first of them in full, of others the error."""
    last = {body["cell"]: body for body in state["failures"]}
    lines = []
    for body in last.values():
        lines.append(f"  failed: {body['cell']}, label {body['label']}, seed {body['seed']}: {body['error']}")
        trace = str(body.get("traceback") or "").rstrip().splitlines()
        lines += [f"    {line}" for line in trace] if len(lines) == 1 else []
    return lines


def text(state: dict[str, Any], cells: bool) -> list[str]:
    """The state for people; one line per cell where there is one study."""
    lock = state["lock"]
    who = f"pid {lock.get('pid')} on {lock.get('host')}"
    running = {
        "free": "not running",
        "live": f"running: {who}",
        "stale": f"not running (stale lock of {who}, which is gone; the next run takes it over)",
    }[lock["state"]]
    ago = state["last_record_s_ago"]
    kept = "" if state["ledger"] else "; kept without its ledger, rows are those of its tables"
    lines = [f"{state['study']}: {running}{kept}" + ("" if ago is None else f"; last record {roughly(ago)} ago")]
    failed = f", {state['failed']} failed" if state["failed"] else ""
    left = state["seconds_left"]
    eta = f", about {roughly(left)} of decoding left" if left and state["pending"] else ""
    lines.append(f"  {count(len(state['cells']), 'cell')}: {state['done']} units done, {state['pending']} pending{failed}{eta}")
    lines += [f"  {line}" for line in state["jobs"]]
    lines += [f"  damaged: {line}" for line in state["damage"]]
    if cells:
        for c in state["cells"]:
            failed = f", {c['failed']} failed" if c["failed"] else ""
            lines.append(f"  {c['id']}  {c['done']}/{c['planned']}{failed}  {c['name']}")
        lines += _last_failures(state)
        if state["failed"]:
            lines.append("  why: sdvar-exp logs CELL; again: sdvar-exp run --failed with the same words")
    lines += [f"  `run` will refuse to go on: {state['refused']}"] if state["refused"] else []
    return lines
