"""All figures of a study, from its tables and picture files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sdvar_exp.report.plots import acceptance, calls, images, tradeoff
from sdvar_exp.report.source import Tables
from sdvar_exp.report.style import Drawn, save, styled
from sdvar_exp.report.summary import summarise

log = logging.getLogger(__name__)


def write_figures(
    source: Path | str | Tables,
    out: Path | str,
    *,
    images: Path | str | None = None,
    summary: pd.DataFrame | None = None,
    command: str | None = None,
) -> list[Path]:
    """Write every figure that the data allow as PDF and PNG to `out`; the paths, in order.

    source: a study's folder, or its tables. images: folder of the picture files, by default `images` of the study's
    folder, or beside `out` where tables are given. summary: of `summarise(tables)`, if it has been computed already.
    command: what makes these files again, for their metadata. Equal data and package versions give equal bytes.
    """
    out = Path(out)
    tables, folder = _load(source)
    place = Path(images) if images is not None else (folder or out.parent) / "images"
    numbered = summarise(tables) if summary is None else summary
    numbered = numbered.assign(number=range(1, len(numbered) + 1))
    written = []
    with styled():
        for drawn in _all(tables, numbered, place):
            written += save(drawn, out, command or _command(tables))
    return written


def _load(source: Path | str | Tables) -> tuple[Tables, Path | None]:
    """Tables and, where it is known, the folder that they come from."""
    if isinstance(source, Path | str):
        from sdvar_exp.store import load_tables

        return load_tables(Path(source)), Path(source)
    return source, None


def _all(tables: Tables, summary: pd.DataFrame, place: Path) -> Iterator[Drawn]:
    for name, module, data in (
        ("speed-up against pixel difference", tradeoff, tradeoff.frame(summary)),
        ("target calls and token-forwards", calls, calls.frame(summary)),
        ("acceptance by stage", acceptance, acceptance.frame(tables, summary)),
    ):
        if data.empty:
            log.info("no figure of %s: no cell has these numbers", name)
        else:
            yield module.figure(data)
    tiles = list(images.pages(tables, summary, place))
    if not tiles:
        log.info("no figure of images side by side: no picture files of a cell and its baseline")
    for page, data in enumerate(tiles, start=1):
        yield images.figure(data, place, page)


def _command(tables: Tables) -> str:
    studies = tables.runs["study"].unique() if "study" in tables.runs else []
    codes = tables.runs["code"].dropna().unique() if "code" in tables.runs else []
    return " ".join(["sdvar-exp figures", *(f"study={s}" for s in studies), *(f"(code {c})" for c in codes)])
