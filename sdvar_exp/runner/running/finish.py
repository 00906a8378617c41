"""The end of a run: tables on disk, the table of its own cells on the screen, figures, a page, and where everything is."""

from __future__ import annotations

import logging
import shlex
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
from rich.console import Console

from sdvar_exp.plan import Plan
from sdvar_exp.report import render_table, summarise, typeset, write_figures
from sdvar_exp.report.page import write_page
from sdvar_exp.report.source import current, own_rows
from sdvar_exp.runner.running.progress import say, shown
from sdvar_exp.store import Study, Tables
from sdvar_exp.words import count

log = logging.getLogger(__name__)

CHEAP = 2_000
"""Images of a study whose page takes seconds: a run writes it only up to here."""


def finish(study: Study, plan: Plan, console: Console) -> bool:
    """Write tables, figures and, up to `CHEAP` images, the page; print the summary and the places.

    False if figures or page could not be drawn, or if a cell broke its promise to give the baseline's tokens.
    """
    tables = current(study.write_tables(), study.folder)
    summary = summarise(own_rows(tables, plan))
    console.print()
    render_table(summary, console)
    broken = broken_promises(summary)
    for line in broken:
        say(console, line, "bold red")
    with console.status("drawing figures") if console.is_terminal else nullcontext():
        whole = summarise(tables)
        figures, faults = draw(tables, study.folder, whole)
        page: Path | None = None
        if len(tables.samples) <= CHEAP:
            try:
                page = write_page(study.folder, tables=tables, draw=False, faults=faults)
            except Exception as error:  # a table without a page is worth more than a traceback instead of both
                log.debug("the page failed", exc_info=True)
                faults.append(f"no page: {type(error).__name__}: {error}")
    for line in faults:
        say(console, f"failed: {line}", "bold red")
    console.print()
    if line := cached(own_rows(tables, plan).samples):
        say(console, line)
    for line in places(study.folder, figures, page):
        say(console, line)
    return not faults and not broken


def draw(tables: Tables, folder: Path, summary: pd.DataFrame) -> tuple[list[Path], list[str]]:
    """Write the tables for a paper and the figures of a study; the figures, and a line for each thing that failed.

    Whatever fails takes nothing else with it. summary: of all tables.
    """
    figures: list[Path] = []
    faults: list[str] = []
    try:
        typeset.write_typeset(tables, summary, folder / "tables")
    except Exception as error:
        log.debug("typeset tables failed", exc_info=True)
        faults.append(f"no tables for a paper: {type(error).__name__}: {error}")
    try:
        written = write_figures(tables, folder / "figures", images=folder / "images", summary=summary)
        figures = list(written)
        faults += [f"figure {name}: {why}" for name, why in getattr(written, "failed", {}).items()]
    except Exception as error:
        log.debug("figures failed", exc_info=True)
        faults.append(f"no figures: {type(error).__name__}: {error}")
    return figures, faults


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


def cached(samples: pd.DataFrame) -> str:
    """Number of images whose baseline came from a cache, in a line; empty where that is not known."""
    known = samples["cache_hit"].dropna().astype(bool) if "cache_hit" in samples else pd.Series(dtype=bool)
    return f"cache    {int(known.sum())} of {count(len(known), 'image')} found their baselines in it" if len(known) else ""


def places(folder: Path, figures: list[Path], page: Path | None) -> list[str]:
    """Lines that say where tables, figures, images and page lie, or what makes the page."""
    lines = [f"tables   {shown(folder / 'tables')}"]
    if figures:
        pdfs = sum(p.suffix == ".pdf" for p in figures)
        lines.append(f"figures  {shown(folder / 'figures')}  ({pdfs} as PDF, PNG and SVG)")
    if (folder / "images").is_dir():
        lines.append(f"images   {shown(folder / 'images')}")
    command = shlex.join(["sdvar-exp", "report", shown(folder)])
    return [*lines, f"page     {shown(page) if page else f'made by {command}'}"]
