"""`sdvar-exp logs [CELL]`: what happened to a cell or in a whole study: commands, failures with their tracebacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdvar_exp.cli.options import Parser
from sdvar_exp.cli.studies import add_results_dir, cells, find_study, one_cell, split_cell, studies
from sdvar_exp.errors import UserError
from sdvar_exp.registry import choice_text
from sdvar_exp.store.files import studies_in
from sdvar_exp.words import count


def parser() -> Parser:
    known = Parser(
        prog="sdvar-exp logs",
        description="What happened to a cell, or in a study: starts, failures with tracebacks.",
        json="the records for machines, one a line",
    )
    known.add_argument(
        "cell",
        nargs="?",
        help="its id or the first digits of it, its name, a pattern, or key=value that one cell has; default: the whole study",
        source=cells,
    )
    known.add_argument("--study", help="its folder or name; default: the study that has the cell", source=studies)
    add_results_dir(known)
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    results, cell = Path(asked.results_dir), None
    if asked.cell is None:
        folder = find_study(asked.study, results)
    elif asked.study is None and asked.cell in studies(asked):
        folder = find_study(asked.cell, results)
    else:
        folder, cell = find_cell(asked.cell, asked.study, results)
    for body in records(folder, cell):
        print(json.dumps(body, ensure_ascii=False) if asked.json else text(body))
    return 0


def find_cell(word: str, study: str | None, results_dir: Path) -> tuple[Path, str]:
    """The study and the id of a cell; without `study`, of the one study in which `word` means a cell."""
    if study is None:
        study, word = split_cell(word, results_dir)
    if study is not None:
        folder = find_study(study, results_dir)
        return folder, one_cell(word, folder)
    folders = studies_in(results_dir)
    if len(folders) < 2:
        folder = find_study(None, results_dir)
        return folder, one_cell(word, folder)
    found, reasons = [], []
    for folder in folders:
        try:
            found.append((folder, one_cell(word, folder)))
        except UserError as error:
            reasons.append(str(error))
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{word!r} is in {', '.join(f.name for f, _ in found)}; say which with --study")
    raise UserError(f"no study in {results_dir} has one cell {word!r}: {'; '.join(reasons[:3])}")


def records(folder: Path, cell: str | None) -> Iterator[dict[str, Any]]:
    """Sessions that had the cell, its failures, and how many rows and timings it has; without one, those of the study."""
    from sdvar_exp.store.manifest import is_kept, read_cells
    from sdvar_exp.store.state import read_rows, unit_key

    known, state = read_cells(folder), read_rows(folder, cell, tracebacks=True)
    if cell is None:
        yield {"type": "study", "study": str(folder), "cells": {one: about["name"] for one, about in known.items()}}
    else:
        about = {k: known[cell][k] for k in ("id", "name", "lossless", "config", "overrides")}
        yield {"type": "cell", "study": str(folder), **about}
    yield from state.sessions
    for body in state.failures:
        named = {"cell_name": known.get(body["cell"], {}).get("name", "")} if cell is None else {}
        yield {**body, **named, "done": unit_key(body) in state.units}
    yield {
        "type": "summary",
        "units": len(state.units),
        "timings": sum(state.timings_by_cell().values()),
        "failures": len(state.failures),
        "last_finished_at": max(state.units.values(), default="") or None,
        **({"ledger": False} if is_kept(folder) else {}),
    }


def text(body: dict[str, Any]) -> str:
    """A record for people."""
    kind = body["type"]
    if kind == "cell":
        lines = [f"{body['id']}  {body['name']}  ({body['study']})", f"overrides: {' '.join(body['overrides']) or 'none'}"]
        return "\n".join([*lines, *(f"  {key}: {choice_text(_said(value))}" for key, value in body["config"].items())])
    if kind == "study":
        return f"{body['study']}: {count(len(body['cells']), 'cell')}"
    if kind == "session":
        git = body.get("git") or {}
        code = f"code {body.get('code')}" + (
            f", commit {str(git.get('commit'))[:12]}{' + changes' if git.get('dirty') else ''}" if git else ""
        )
        words = " ".join(body.get("argv", ()))
        return f"{body.get('started_at')}  started on {body.get('host')} by pid {body.get('pid')}: {words}  [{code}]"
    if kind == "failure":
        again = "; it has a row now" if body["done"] else ""
        of = f"{body['cell']}  {body['cell_name']}, " if "cell_name" in body else ""
        head = f"failed: {of}label {body['label']}, seed {body['seed']}, attempt {body.get('attempt')}: {body['error']}{again}"
        return "\n".join([head, *(f"  {line}" for line in str(body.get("traceback", "")).rstrip().splitlines())])
    last = f", the last at {body['last_finished_at']}" if body["last_finished_at"] else ""
    kept = "" if body.get("ledger", True) else "; kept without its ledger, so that starts are not known"
    done, timed, failed = (count(body[f"{what}s"], what) for what in ("unit", "timing", "failure"))
    return f"{done} with a row{last}; {timed}; {failed}{kept}"


def _said(value: Any) -> Any:
    """A value of a configuration without the parts that are empty, as files of a pair that is shipped are."""
    return {k: v for k, v in value.items() if v != ""} if isinstance(value, dict) else value
