"""All figures of a study, from its tables and picture files, and the list of what was drawn, `index.json`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.report.material import Material, Skipped
from sdvar_exp.report.plots import (
    acceptance,
    breakdown,
    calls,
    effects,
    gamma,
    images,
    masks,
    prediction,
    schedules,
    steps,
    tradeoff,
)
from sdvar_exp.report.sizes import size_of
from sdvar_exp.report.source import Tables, read_tables
from sdvar_exp.report.style import KINDS, Drawn, save, styled
from sdvar_exp.report.summary import summarise

log = logging.getLogger(__name__)

FIGURES: dict[str, Callable[[Material], Iterator[Drawn]]] = {
    "speedup-vs-pixel-difference": tradeoff.figures,
    tradeoff.FRECHET.name: tradeoff.frechet_figures,
    calls.NAME: calls.figures,
    acceptance.NAME: acceptance.figures,
    gamma.NAME: gamma.figures,
    masks.NAME: masks.figures,
    schedules.NAME: schedules.figures,
    breakdown.NAME: breakdown.figures,
    prediction.NAME: prediction.figures,
    effects.NAME: effects.figures,
    images.NAME: images.figures,
    steps.NAME: steps.figures,
}
"""By name, in the order in which a reader meets them."""
INDEX = "index.json"


def write_figures(
    source: Path | str | Tables,
    out: Path | str,
    *,
    images: Path | str | None = None,
    summary: pd.DataFrame | None = None,
    command: str | None = None,
    only: Sequence[str] = (),
    venue: str | None = None,
    profile: str | None = None,
) -> list[Path]:
    """Write every figure that the data allow as PDF, PNG and SVG to `out`, with `index.json`; their paths, in order.

    source: a study's folder, or its tables. images: folder of the picture files, by default `images` of the study's
    folder, or beside `out` where tables are given. summary: of `summarise(tables)`, if it has been computed already.
    command: what makes these files again, for their metadata. only: names of `FIGURES`. venue: see `sizes.VENUES`.
    profile: a cost profile to predict speed-ups from. Equal data and package versions give equal bytes.
    A figure whose data are absent is skipped, with a line in the log and in `index.json`. Raises `UserError` for unknown
    names.
    """
    out = Path(out)
    material, folder = _material(source, out, images, summary, venue, profile)
    base = command or _command(material.tables, venue, profile)
    written, entries, skipped = [], [], {}
    for name, result in draw_figures(material, only):
        if isinstance(result, Drawn):
            line = f"{base} --only {name}"
            written += save(result, out, line + _made(material.tables))
            entries.append(
                {
                    "name": result.name,
                    "title": result.title,
                    "caption": result.caption,
                    "data_sha256": result.data_hash,
                    "command": line,
                    "venue": venue,
                    "profile": profile,
                    "files": [f"{result.name}.{kind}" for kind in KINDS],
                }
            )
        else:
            log.info("no figure %s: %s", name, result)
            skipped[name] = result
    if written:
        _write_index(out, folder or out.parent, entries, skipped, only)
    return written


def draw_figures(material: Material, only: Sequence[str] = ()) -> Iterator[tuple[str, Drawn | str]]:
    """Name of `FIGURES` and each of its figures, or why there is none; to be consumed one by one, under the right style."""
    for name in chosen(only):
        with styled(material.size.rc):
            try:
                for drawn in FIGURES[name](material):
                    yield name, drawn
            except Skipped as reason:
                yield name, str(reason)


def chosen(only: Sequence[str]) -> list[str]:
    """The named figures, or all; `UserError` for an unknown name."""
    for name in only:
        if name not in FIGURES:
            near = get_close_matches(name, FIGURES, n=1)
            raise UserError(
                f"there is no figure {name!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"figures are {', '.join(FIGURES)}")
            )
    return [name for name in FIGURES if not only or name in only]


@dataclass(frozen=True)
class Made:
    """What `index.json` of a folder says. study: folder of the study that the figures show."""

    folder: Path
    study: Path
    figures: list[dict[str, Any]]


def read_index(folder: Path) -> Made:
    """`index.json` of a folder of figures; `UserError` where there is none or it is damaged."""
    file = folder / INDEX
    if not file.is_file():
        raise UserError(f"{folder} has no {INDEX}: make the figures with `sdvar-exp figures`")
    try:
        content = json.loads(file.read_text())
        return Made(folder, folder / content["study"], list(content["figures"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): make the figures again with `sdvar-exp figures`") from None


def _write_index(out: Path, study: Path, entries: list[dict[str, Any]], skipped: dict[str, str], only: Sequence[str]) -> None:
    """With `only`, other figures that the folder's index names stay in it."""
    from sdvar_exp.store.files import atomic_write

    kept: list[dict[str, Any]] = []
    if only and (out / INDEX).is_file():
        made = set(chosen(only))
        kept = [e for e in read_index(out).figures if family(e["name"]) not in made]
    order = list(FIGURES)
    figures = sorted([*kept, *entries], key=lambda e: (order.index(family(e["name"])), len(e["name"]), e["name"]))
    content = {"study": os.path.relpath(study, out), "figures": figures, "skipped": skipped}
    atomic_write(out / INDEX, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def family(name: str) -> str:
    """The name in `FIGURES` of a page: `images-2` belongs to `images`."""
    head, _, page = name.rpartition("-")
    return head if page.isdigit() and head in FIGURES else name


def _material(
    source: Path | str | Tables,
    out: Path,
    images: Path | str | None,
    summary: pd.DataFrame | None,
    venue: str | None,
    profile: str | None,
) -> tuple[Material, Path | None]:
    """Material and, where it is known, the folder that it comes from."""
    folder = Path(source) if isinstance(source, Path | str) else None
    tables = read_tables(folder) if folder is not None else source
    place = Path(images) if images is not None else (folder or out.parent) / "images"
    numbered = summarise(tables) if summary is None else summary  # type: ignore[arg-type]
    numbered = numbered.assign(number=range(1, len(numbered) + 1))
    quality = place.parent / "tables" / "quality.parquet"
    found = pd.read_parquet(quality) if quality.is_file() else pd.DataFrame()
    return Material(tables, numbered, place, size_of(venue), found, profile), folder  # type: ignore[arg-type]


def material_of(folder: Path, venue: str | None = None, profile: str | None = None) -> Material:
    """What the figures of a study are made from."""
    return _material(folder, folder / "figures", None, None, venue, profile)[0]


def _command(tables: Tables, venue: str | None = None, profile: str | None = None) -> str:
    studies = tables.runs["study"].unique() if "study" in tables.runs else []
    flags = [*(("--venue", venue) if venue else ()), *(("--profile", profile) if profile else ())]
    return " ".join(["sdvar-exp figures", *map(str, studies), *flags])


def _made(tables: Tables) -> str:
    """What decoded the study, for metadata: versions of code and packages, checkpoints (eight digits of each hash), device,
    dtype, threads.
    """
    columns = ["code", "checkpoints", "packages", "device_kind", "dtype", "threads"]
    if not set(columns) <= set(tables.runs):
        return ""
    found = []
    for row in tables.runs[columns].dropna(subset="code").drop_duplicates().to_dict("records"):
        checkpoints, packages = ({} if pd.isna(row[k]) else json.loads(row[k]) for k in ("checkpoints", "packages"))
        models = [
            f"{model}: {', '.join(f'{role} {str(digest)[:8]}' for role, digest in sorted(digests.items()))}"
            for model, digests in checkpoints.items()
            if isinstance(digests, dict)
        ]
        versions = ", ".join(f"{name} {version.split('+')[0]}" for name, version in packages.items())
        found.append(
            "; ".join(
                [f"code {row['code']}", *models, versions, f"{row['device_kind']} {row['dtype']}, threads {row['threads']}"]
            )
        )
    return "".join(f" ({text})" for text in found)
