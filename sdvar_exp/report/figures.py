"""All figures of a study, from its tables and picture files, and the list of what was drawn, `index.json`."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sdvar_exp import registry
from sdvar_exp.errors import UserError
from sdvar_exp.report.classes import classes_of
from sdvar_exp.report.material import Material, Skipped
from sdvar_exp.report.sizes import size_of
from sdvar_exp.report.source import Tables, read_tables, with_rates
from sdvar_exp.report.style import KINDS, Drawn, data_hash, save, styled
from sdvar_exp.report.summary import summarise
from sdvar_exp.store.files import atomic_write
from sdvar_exp.store.ledger import sessions
from sdvar_exp.words import choices_text, count, did_you_mean, first_line

log = logging.getLogger(__name__)

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
    every: bool = False,
) -> Written:
    """Write every figure that the data allow as PDF, PNG and SVG to `out`, with `index.json`; their paths, in order.

    source: a study's folder, or its tables. images: folder of the picture files, by default `images` of the study's
    folder, or beside `out` where tables are given. summary: of `summarise(tables)`, if it has been computed already.
    command: what makes these files again, for their metadata. only: names of registered figures. venue: see `sizes.VENUES`.
    profile: a cost profile to predict speed-ups from. every: figures of many panels draw all cells, not the most telling
    ones. Equal data and package versions give equal bytes.
    A figure whose data are absent is skipped, with a line in the log and in `index.json`; so is one that raises, which is also
    in `failed` of what is returned. Raises `UserError` for unknown names.
    """
    out = Path(out)
    material, folder = _material(source, out, images, summary, venue, profile)
    material = replace(material, every=every)
    base = command or _command(material.tables, venue, profile)
    written: list[Path] = []
    entries: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, result in draw_figures(material, only):
        line = f"{base} --only {name}" + " --all" * every
        if isinstance(result, Drawn):
            try:
                written += save(result, out, line + _made(material.tables))
            except OSError:  # the folder cannot be written to
                raise
            except Exception as error:
                result = Failed(error)
        if isinstance(result, Failed):
            log.error("figure %s failed: %s", name, result)
            failed[name] = str(result)
        elif isinstance(result, Drawn):
            entries.append(
                {
                    "name": result.name,
                    "figure": name,
                    "title": result.title,
                    "caption": result.caption,
                    "data_sha256": result.data_hash,
                    "command": line,
                    "venue": venue,
                    "profile": profile,
                    "every": every,
                    "files": [f"{result.name}.{kind}" for kind in KINDS],
                }
            )
        else:
            log.info("no figure %s: %s", name, result)
            skipped[name] = result
    if written or failed:
        _write_index(out, folder or out.parent, entries, skipped, failed, only)
    return Written(written, failed)


class Written(list[Path]):
    """Paths of files, in order. failed: by figure, why it could not be drawn."""

    def __init__(self, paths: Iterable[Path], failed: Mapping[str, str]) -> None:
        super().__init__(paths)
        self.failed = dict(failed)


class Failed(str):
    """The reason why a figure could not be drawn, in one line; its traceback is logged for debugging."""

    def __new__(cls, error: Exception) -> Failed:
        log.debug("a figure failed", exc_info=error)
        return super().__new__(cls, first_line(error))


def draw_figures(material: Material, only: Sequence[str] = ()) -> Iterator[tuple[str, Drawn | str]]:
    """Name of an entry and each of its figures, or why there is none; to be consumed one by one, under the right style.

    A figure that raises gives `Failed` and loses only itself.
    """
    for entry in chosen(only):
        with styled(material.size.rc):
            try:
                for drawn in _pages(entry, material):
                    yield entry.name, replace(drawn, made=material.made)
            except Skipped as reason:
                yield entry.name, str(reason)
            except Exception as error:
                yield entry.name, Failed(error)


def known() -> list[registry.Entry]:
    """Every registered figure, in the order in which a reader meets them, those of users last."""
    found = [registry.get("figure", name) for name in registry.names("figure")]
    return sorted(found, key=lambda entry: (entry.meta.get("place", math.inf), entry.name))


def chosen(only: Sequence[str]) -> list[registry.Entry]:
    """The named figures, or all; `UserError` for an unknown name."""
    names = [entry.name for entry in known()]
    for name in only:
        if name not in names:
            raise UserError(f"there is no figure {name!r}{did_you_mean(name, names, choices_text(names, 'figures are'))}")
    return [entry for entry in known() if not only or entry.name in only]


def _pages(entry: registry.Entry, material: Material) -> Iterator[Drawn]:
    """Figures of an entry: what its function gives for `material`, or one axis that it draws `data` on."""
    if tuple(signature(entry.function).parameters) == ("material",):
        yield from entry.function(material)
        return
    table, needs = entry.meta.get("of", "summary"), list(entry.meta.get("needs", ()))
    whole = material.summary if table == "summary" else with_rates(getattr(material.tables, table))
    missing = [name for name in needs if name not in whole or whole[name].isna().all()]
    data = whole.dropna(subset=needs) if not missing else whole.iloc[:0]
    if data.empty:
        raise Skipped(f"{table} has no value of {', '.join(missing)}" if missing else f"{table} is empty")
    figure = Figure((material.size.column, 0.75 * material.size.column), layout="constrained")
    entry.function(data, figure.add_subplot())
    title = str(entry.meta.get("title", entry.name))
    yield Drawn(entry.name, title, figure, data_hash(data[needs] if needs else data), f"{entry.doc} n = {len(data)} rows.")


@dataclass(frozen=True)
class Made:
    """Content of a folder's `index.json`. study: folder of the study that the figures show."""

    folder: Path
    study: Path
    figures: list[dict[str, Any]]


def read_index(folder: Path) -> Made:
    """`index.json` of a folder of figures; `UserError` where there is none or it is damaged."""
    file = folder / INDEX
    if not file.is_file():
        raise UserError(f"{folder} has no {INDEX}: make the figures with `sdvar-exp figures`")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Made(folder, folder / content["study"], list(content["figures"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}): make the figures again with `sdvar-exp figures`") from None


def _write_index(
    out: Path, study: Path, entries: list[dict[str, Any]], skipped: dict[str, str], failed: dict[str, str], only: Sequence[str]
) -> None:
    """With `only`, other figures that the folder's index names stay in it."""
    kept: list[dict[str, Any]] = []
    if only and (out / INDEX).is_file():
        made = {entry.name for entry in chosen(only)}
        kept = [e for e in read_index(out).figures if family(e) not in made]
    order = {entry.name: place for place, entry in enumerate(known())}
    figures = sorted([*kept, *entries], key=lambda e: (order.get(family(e), len(order)), len(e["name"]), e["name"]))
    content = {"study": os.path.relpath(study, out), "figures": figures, "skipped": skipped, "failed": failed}
    atomic_write(out / INDEX, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def family(entry: Mapping[str, Any]) -> str:
    """The registered figure that an entry of the index is a page of: `images-2` belongs to `images`."""
    name = str(entry.get("figure", entry["name"]))
    head, _, page = name.rpartition("-")
    return head if page.isdigit() and "figure" not in entry else name


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
    known = Material(tables, numbered, place, size_of(venue), found, profile)  # type: ignore[arg-type]
    return replace(known, classes=classes_of(place.parent, tables.runs), made=made_on(place.parent, tables.runs)), folder  # type: ignore[union-attr]


def material_of(folder: Path, venue: str | None = None, profile: str | None = None, every: bool = False) -> Material:
    """The material of a study's figures."""
    return replace(_material(folder, folder / "figures", None, None, venue, profile)[0], every=every)


def made_on(folder: Path, runs: pd.DataFrame) -> str:
    """Study, commit and hardware in a line, as far as its sessions say; else the digest of the code that decoded it."""
    if not {"study", "code", "device_kind", "dtype", "threads"} <= set(runs) or runs.empty:
        return ""
    first = runs.iloc[0]
    commits: list[str] = []
    machines: list[str] = []
    for body in sessions(folder / "ledger"):
        git, hardware = body.get("git") or {}, body.get("hardware") or {}
        commits += [f"{str(git['commit'])[:10]}{' with changes' if git.get('dirty') else ''}"] if git.get("commit") else []
        gpus = [str(gpu).partition(",")[0] for gpu in hardware.get("gpus") or ()] if first["device_kind"] != "cpu" else []
        machines += [" ".join(str(gpus[0] if gpus else hardware.get("processor") or "").split())]
    code = f"commit {_several(commits)}" if commits else f"code {first['code']}"
    threads = (
        f", {count(int(first['threads']), 'thread')}" if first["device_kind"] == "cpu" and pd.notna(first["threads"]) else ""
    )
    machine = _several([m for m in machines if m]) or str(first["device_kind"])
    return f"study {first['study']} · {code} · {machine}, {first['dtype']}{threads}"


def _several(words: Sequence[str]) -> str:
    """The last of the words and how many others there are, e.g. `b and 1 other`."""
    found = list(dict.fromkeys(words))
    return f"{found[-1]} and {count(len(found) - 1, 'other')}" if len(found) > 1 else "".join(found)


def _command(tables: Tables, venue: str | None = None, profile: str | None = None) -> str:
    studies = tables.runs["study"].unique() if "study" in tables.runs else []
    flags = [*(("--venue", venue) if venue else ()), *(("--profile", profile) if profile else ())]
    return " ".join(["sdvar-exp figures", *map(str, studies), *flags])


def _made(tables: Tables) -> str:
    """Provenance of the study for metadata: versions of code and packages, checkpoints (eight digits of each hash), device,
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
