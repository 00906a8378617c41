"""What a run ends with: tables on disk, the table of its own cells on the screen, figures, a page, and where everything is."""

from __future__ import annotations

import logging
import shlex
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from sdvar_exp.plan import Plan
from sdvar_exp.report import render_table, summarise, write_figures
from sdvar_exp.report.page import write_page
from sdvar_exp.report.typeset import write_typeset
from sdvar_exp.runner.running.progress import say, shown
from sdvar_exp.store import Study, Tables

log = logging.getLogger(__name__)

CHEAP = 2_000
"""Images of a study whose page takes seconds: a run writes it only up to here."""


def finish(study: Study, plan: Plan, console: Console) -> bool:
    """Write tables, figures and, up to `CHEAP` images, the page; print the summary and the places.

    False if figures or page could not be drawn, or if a cell broke its promise to give the baseline's tokens.
    """
    tables = study.write_tables()
    summary = summarise(own_rows(tables, plan))
    console.print()
    render_table(summary, console)
    broken = broken_promises(summary)
    for line in broken:
        say(console, line, "bold red")
    figures: list[Path] = []
    faults: list[str] = []
    page: Path | None = None
    sound = False
    try:
        with console.status("drawing figures") if console.is_terminal else nullcontext():
            whole = summarise(tables)
            write_typeset(tables, whole, study.folder / "tables")
            figures = write_figures(tables, study.folder / "figures", images=study.folder / "images", summary=whole)
            if len(tables.samples) <= CHEAP:
                page = write_page(study.folder, tables=tables, draw=False, faults=faults)
        faults += [f"figure {name}: {why}" for name, why in getattr(figures, "failed", {}).items()]
        for line in faults:
            say(console, f"failed: {line}", "bold red")
        sound = not faults
    except Exception as error:  # a table without figures is worth more than a traceback instead of both
        log.debug("figures or page failed", exc_info=True)
        say(console, f"no {'page' if figures else 'figures'}: {type(error).__name__}: {error}", "bold red")
    console.print()
    for line in places(study.folder, figures, page):
        say(console, line)
    return sound and not broken


def own_rows(tables: Tables, plan: Plan) -> Tables:
    """Rows of the plan's cells, labels and seeds: a study may hold more than one command asked for."""
    cells = {planned.cell.id for planned in plan.cells}
    frames = {}
    for f in fields(tables):
        frame = getattr(tables, f.name)
        if isinstance(frame, pd.DataFrame):
            keep = frame["cell"].isin(cells)
            for column, wanted in (("label", plan.labels), ("seed", plan.seeds), ("other_seed", plan.seeds)):
                if column in frame:
                    keep &= frame[column].isin(wanted)
            frames[f.name] = frame[keep].reset_index(drop=True)
    return replace(tables, **frames)


def broken_promises(summary: pd.DataFrame) -> list[str]:
    """One line for every cell that is to give the baseline's tokens and does not, near-ties aside."""
    lines = []
    for row in summary[summary["lossless"] == "tokens"].to_dict("records"):
        broken = row["compared"] - row["identical"] - row["near_ties"]
        if broken > 0:
            lines.append(
                f"{row['name']} is to give the baseline's tokens, but {broken:.0f} of {row['compared']:.0f} "
                "images differ by more than near-ties: a bug, or arithmetic too coarse for dtype"
            )
    return lines


def places(folder: Path, figures: list[Path], page: Path | None) -> list[str]:
    """Where tables, figures, images and page lie, or what makes the page."""
    lines = [f"tables   {shown(folder / 'tables')}"]
    if figures:
        count = sum(p.suffix == ".pdf" for p in figures)
        lines.append(f"figures  {shown(folder / 'figures')}  ({count} as PDF, PNG and SVG)")
    if (folder / "images").is_dir():
        lines.append(f"images   {shown(folder / 'images')}")
    command = shlex.join(["sdvar-exp", "report", shown(folder)])
    return [*lines, f"page     {shown(page) if page else f'made by {command}'}"]
