"""Put a study's page together: words, table, figures, pictures, provenance, in one file that needs no other.

Equal data and package versions give equal bytes. What is shown of a study is text, so it is escaped here and nowhere
twice: `html.escape` in markup, `data_block` in scripts. The page may load nothing but its own pictures: a content security
policy allows the two scripts and the style sheet by hash, and images that lie beside it or inside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.quantities import headline
from sdvar_exp.report.figures import write_figures
from sdvar_exp.report.page import cells, figures, pictures, provenance, stages, words
from sdvar_exp.report.source import Tables, read_tables
from sdvar_exp.report.summary import summarise
from sdvar_exp.store.files import atomic_write, storage_errors
from sdvar_exp.store.manifest import read_cells, read_manifest

log = logging.getLogger(__name__)

LARGEST = 30_000_000
"""Bytes that a page may have."""
ASSETS = Path(__file__).parent
SCRIPTS = ("common.js", "table.js", "figures.js", "images.js", "stages.js")


@dataclass(frozen=True)
class Parts:
    """What a page is made of: markup, data for the scripts, and pictures by key."""

    markup: dict[str, str]
    data: dict[str, Any]
    pictures: dict[str, str]


def write_page(folder: Path | str, out: Path | str | None = None, *, tables: Tables | None = None, draw: bool = True) -> Path:
    """Write the page of a study, by default `report.html` in its folder; the path.

    tables: of the study, if they have been read already. draw: draw the figures if the study has none. Raises `UserError`
    where there is no study, it has no cells, or the page cannot be made small enough.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"there is no study at {folder}; give the folder that holds manifest.json")
    path = Path(out) if out is not None else folder / "report.html"
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; give the name of a file, such as {path / 'report.html'}")
    tables = tables if tables is not None else read_tables(folder)
    if tables.runs.empty:
        raise UserError(f"study {manifest['study']} has no cells yet; run it first")
    if draw and not any((folder / "figures").glob("*.png")):
        write_figures(tables, folder / "figures", images=folder / "images")
    content = render(parts(folder, manifest, tables, _relative(folder, path)))
    if len(content) > LARGEST:
        raise UserError(
            f"the page would have {len(content) / 1e6:.0f} MB, at most {LARGEST / 1e6:.0f} are allowed; "
            "report a study of fewer cells"
        )
    with storage_errors(path):
        atomic_write(path, content)
    return path


def parts(folder: Path, manifest: dict[str, Any], tables: Tables, base: str) -> Parts:
    """Everything on the page. base: where the study's folder is, seen from the page."""
    summary = summarise(tables)
    summary = summary.assign(number=range(1, len(summary) + 1), front=cells.on_front(summary))
    about = read_cells(folder)
    drawn = figures.collect(folder / "figures", base)
    galleries = pictures.collect(folder / "images", tables, summary)
    walks = stages.collect(folder / "images", tables, summary)
    markup = {
        "title": escape(str(manifest["study"])),
        "lead": words.lead(tables, summary, manifest),
        "facts": words.facts(summary),
        "summary": words.paragraphs(tables, summary),
        "filters": cells.filters(summary),
        "table": cells.table(summary),
        "cards": provenance.cards(summary, about, base),
        "figures": figures.markup(drawn),
        "choices": cells.choices(summary),
        "image_note": pictures.note(galleries, summary),
        "stage_choices": cells.choices(summary[summary["cell"].isin(walks.cells)]),
        "stage_note": stages.note(walks),
        "provenance": provenance.study(folder, manifest, base),
        "colours": stages.legend(),
    }
    facts = [[m.name, m.plain_heading, 4 if m.values == "float" else 0] for m in pictures.facts()]
    data: dict[str, Any] = {"images": f"{base}/images/", "cells": galleries.data, "stages": walks.data}
    data |= {"facts": facts, "headline": headline("difference").name}
    return Parts(markup, data, galleries.pictures | walks.pictures)


def render(made: Parts) -> bytes:
    """The HTML file."""
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    blocks = "\n".join(
        f'<script type="text/plain" data-picture="{escape(key)}">{url}</script>' for key, url in made.pictures.items()
    )
    policy = (
        f"default-src 'none'; img-src data: blob: file: 'self'; style-src '{_source(style)}'; "
        f"script-src '{_source(script)}'; base-uri 'none'; form-action 'none'"
    )
    page = Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        made.markup, policy=policy, style=style, script=script, data=data_block(made.data), pictures=blocks
    )
    return page.encode("utf-8")


def data_block(value: Any) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment there."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


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
