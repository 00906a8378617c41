"""Put a study's page together: words, table, figures, pictures, provenance, in one file that needs no other.

Equal data and package versions give equal bytes. What is shown of a study is text, which the templates escape:
in markup, and as JSON in scripts. The page may load nothing but its own pictures: a content security
policy allows the two scripts and the style sheet by hash, and images that lie beside it or inside it.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.quantities import headline
from sdvar_exp.report.classes import classes_of
from sdvar_exp.report.figures import write_figures
from sdvar_exp.report.page import cells, figures, pictures, provenance, stages, words
from sdvar_exp.report.page.live import Live, fresh
from sdvar_exp.report.page.markup import ASSETS, environment, part
from sdvar_exp.report.soundness import front
from sdvar_exp.report.source import Tables, read_tables
from sdvar_exp.report.summary import summarise
from sdvar_exp.store.files import atomic_write, storage_errors
from sdvar_exp.store.manifest import read_cells, read_manifest

log = logging.getLogger(__name__)
T = TypeVar("T")

LARGEST = 30_000_000
"""Bytes that a page may have."""
SCRIPTS = ("common.js", "table.js", "figures.js", "images.js", "stages.js")


@dataclass(frozen=True)
class Parts:
    """Parts of a page: markup, data for the scripts, and pictures by key."""

    markup: dict[str, str]
    data: dict[str, Any]
    pictures: dict[str, str]
    faults: list[str]


def write_page(
    folder: Path | str,
    out: Path | str | None = None,
    *,
    tables: Tables | None = None,
    draw: bool = True,
    faults: list[str] | None = None,
    live: Live | None = None,
) -> Path:
    """Write the page of a study, by default `report.html` in its folder; the path.

    tables: of the study, if they have been read already. draw: draw the figures if the study has none. faults: parts and
    figures that could not be made are added to it, one line each; the rest is on the page all the same. live: of a study that
    is running; its page says how far it is, has two figures of its own and reads itself again. Raises `UserError` where there
    is no study, it has no cells, or the page cannot be made small enough.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"there is no study at {folder}; give the folder that holds manifest.json")
    lost = faults if faults is not None else []
    path = Path(out) if out is not None else folder / "report.html"
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; give the name of a file, such as {path / 'report.html'}")
    tables = tables if tables is not None else read_tables(folder)
    if tables.runs.empty:
        raise UserError(f"study {manifest['study']} has no cells yet; run it first")
    if draw and live is None and not any((folder / "figures").glob("*.png")):
        drawn = write_figures(tables, folder / "figures", images=folder / "images")
        lost += [f"figure {name}: {why}" for name, why in drawn.failed.items()]
    made = parts(folder, manifest, tables, _relative(folder, path), live)
    lost += made.faults
    content = render(made)
    if len(content) > LARGEST:
        raise UserError(
            f"the page would have {len(content) / 1e6:.0f} MB, at most {LARGEST / 1e6:.0f} are allowed; "
            "report a study of fewer cells"
        )
    with storage_errors(path):
        atomic_write(path, content)
    return path


def parts(folder: Path, manifest: dict[str, Any], tables: Tables, base: str, live: Live | None = None) -> Parts:
    """Everything on the page. base: where the study's folder is, seen from the page. live: see `write_page`."""
    summary = summarise(tables)
    summary = summary.assign(number=range(1, len(summary) + 1), front=front(summary))
    about = read_cells(folder)
    made = Making()
    none: list[figures.Shown] = []
    drawn = made.attempt(
        "the list of figures", lambda: fresh(folder) if live else figures.collect(folder / "figures", base), none
    )
    galleries = made.attempt(
        "the gallery", lambda: pictures.collect(folder / "images", tables, summary), pictures.Galleries([], {}, 0, 0)
    )
    walks = made.attempt("the stages", lambda: stages.collect(folder / "images", tables, summary), stages.Walks((), [], {}))
    staged = summary[summary["cell"].isin(walks.cells)]
    markup = {
        "title": str(manifest["study"]),
        "again": f"{live.every:g}" if live else "",
        "progress": part("progress", live=live) if live else "",
        "lead": made.part("The line of facts", lambda: words.lead(tables, summary, manifest)),
        "facts": made.part("The first numbers", lambda: words.facts(summary)),
        "summary": made.part("The summary", lambda: words.paragraphs(tables, summary)),
        "filters": made.part("The filters", lambda: cells.filters(summary)),
        "factors": made.part("The filters by factor", lambda: cells.factors(summary, about)),
        "table": made.part("The table", lambda: cells.table(summary, about)),
        "cards": made.part("The cards", lambda: provenance.cards(summary, about, base)),
        "figures": made.part("The figures", lambda: figures.markup(drawn)),
        "choices": made.part("The list of cells", lambda: cells.choices(summary)),
        "image_note": made.part("The note on images", lambda: pictures.note(galleries)),
        "stage_choices": made.part("The list of decodes", lambda: cells.choices(staged)),
        "stage_note": made.part("The note on stages", lambda: stages.note(walks)),
        "provenance": made.part("The provenance", lambda: provenance.study(folder, manifest, base)),
        "colours": made.part("The legend", stages.legend),
    }
    facts = [[m.name, m.plain_heading, 4 if m.values == "float" else 0] for m in pictures.facts()]
    data: dict[str, Any] = {"images": f"{base}/images/", "cells": galleries.data, "stages": walks.data}
    data |= {"facts": facts, "headline": headline("difference").name}
    data |= {"classes": list(classes_of(folder, tables.runs).names)}
    return Parts(markup, data, galleries.pictures | walks.pictures, made.faults)


@dataclass
class Making:
    """Makes parts one by one: one that raises loses only itself, says so on the page, and is listed in `faults`."""

    faults: list[str] = field(default_factory=list)

    def attempt(self, what: str, make: Callable[[], T], otherwise: T) -> T:
        try:
            return make()
        except Exception as error:
            log.debug("%s failed", what, exc_info=True)
            self.faults.append(f"{what}: {type(error).__name__}: {error}")
            return otherwise

    def part(self, what: str, make: Callable[[], str]) -> str:
        made = self.attempt(what, make, "")
        lost = self.faults and self.faults[-1].startswith(f"{what}: ")
        return part("failed", what=what, why=self.faults[-1].removeprefix(f"{what}: ")) if lost else made


def render(made: Parts) -> bytes:
    """The HTML file. A content security policy allows its script and its style sheet by hash."""
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data: blob: file: 'self'; style-src '{_source(style)}'; "
        f"script-src '{_source(script)}'; base-uri 'none'; form-action 'none'"
    )
    values = {"policy": policy, "style": style, "script": script, "data": made.data, "pictures": made.pictures}
    return environment().get_template("page.html").render(made.markup, **values).encode("utf-8")


def _source(text: str) -> str:
    """The hash by which a policy allows an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _relative(folder: Path, page: Path) -> str:
    """The study's folder as a link from the page."""
    try:
        path = os.path.relpath(folder.resolve(), page.resolve().parent)
    except ValueError:  # another drive
        return quote(folder.resolve().as_posix())
    return quote(Path(path).as_posix())
