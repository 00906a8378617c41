"""`sdvar-exp collect`: make tables and figures again from the pieces of a study's ledger."""

from __future__ import annotations

from pathlib import Path

from sdvar_exp.cli import FAILED
from sdvar_exp.cli.options import Parser, say_json, tell
from sdvar_exp.cli.studies import study_of, study_parser
from sdvar_exp.words import count


def parser() -> Parser:
    known = study_parser("collect", "Rebuild tables and figures from the ledger's pieces, whoever wrote them; runs nothing.")
    known.add_argument("--no-figures", action="store_true", help="tables only")
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    folder = study_of(asked)
    from sdvar_exp.store import write_tables
    from sdvar_exp.store.manifest import is_kept

    tables = write_tables(folder)
    notes = list(tables.notes)
    if is_kept(folder):
        notes.append(f"{folder} was kept without its ledger: its tables are left as they are")
    figures: list[Path] = []
    failed: list[str] = []
    if not asked.no_figures:
        from sdvar_exp.report import summarise
        from sdvar_exp.runner.running.finish import draw

        figures, failed = draw(tables, folder, summarise(tables))
    pieces = len(list((folder / "ledger").glob("*.jsonl")))
    missing = int((tables.runs["planned"] - tables.runs["units"]).clip(lower=0).sum())
    if asked.json:
        say_json(
            {
                "folder": str(folder),
                "pieces": pieces,
                "samples": len(tables.samples),
                "cells": len(tables.runs),
                "missing": missing,
                "failures": len(tables.failures),
                "figures": [str(p) for p in figures],
                "notes": notes,
                "failed": failed,
            }
        )
        return FAILED if failed else 0
    tell("note", notes)
    tell("error", failed)
    print(
        f"{count(len(tables.samples), 'row')} of {count(len(tables.runs), 'cell')} from {count(pieces, 'ledger file')}"
        + (f"; {missing} units are missing" if missing else "")
    )
    print(f"tables   {folder / 'tables'}" + (f"\nfigures  {folder / 'figures'}" if figures else ""))
    return FAILED if failed else 0
