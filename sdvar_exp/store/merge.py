"""Several folders of one study, e.g. from several machines, become one: a row per unit, with its images.

Rows of a unit that are equal, circumstances aside, are one; rows that differ are conflicts, which the caller settles. The new
folder is made beside its name and renamed, so that it is there whole or not at all; the folders that it comes from stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from sdvar_exp.errors import UserError, require
from sdvar_exp.store.columns import CIRCUMSTANCES, VOLATILE
from sdvar_exp.store.files import atomic_write, storage_errors
from sdvar_exp.store.images import IMAGE_NAME
from sdvar_exp.store.ledger import LedgerReader, LedgerWriter, canonical
from sdvar_exp.store.lock import holder_of
from sdvar_exp.store.manifest import agree, fingerprint_id, is_kept, read_cells, read_manifest, write_manifest
from sdvar_exp.store.state import UnitKey, unit_key
from sdvar_exp.store.tables import first_rows, row_differences, write_tables

Body = dict[str, Any]
BATCH = 1000


@dataclass
class Merged:
    """Result of a merge. equal: units with equal rows in several folders. conflicts: a line for each unit whose rows differ.

    timings: pairs (unit, repeat) that were timed in several folders; the first stays. damage: records that were left out.
    """

    rows: int = 0
    cells: int = 0
    equal: int = 0
    timings: int = 0
    images: int = 0
    conflicts: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)


def merge(folders: Sequence[Path], into: Path, mixed: bool = False, keep_first: bool = False) -> Merged:
    """Merge the ledgers of `folders` into the new folder `into`. mixed: of different fingerprints too, rows are then tagged.

    keep_first: of rows that differ the one of the first folder stays; else nothing is written where there are any.
    Raises `UserError` where folders are not of one study, or at work, or `into` is there; `StorageError`.
    """
    require(not into.exists(), f"{into} is there already; --into names a folder that is to be made")
    require(len({folder.resolve() for folder in folders}) > 1, "merge needs two folders of a study, or more")
    for folder in folders:
        holder = holder_of(folder / "lock")
        require(not (holder and holder[1]), f"{folder} is at work; wait for its run to end, then merge")
        require(not is_kept(folder), f"{folder} was kept without its ledger, which is what is merged; its tables can be read")
    manifest, tags = _manifests(folders, mixed)
    part = into.with_name(f".{into.name}.{os.getpid()}.part")
    found, owners = Merged(), dict[UnitKey, int]()
    with storage_errors(into):
        try:
            part.mkdir(parents=True)
            writer = LedgerWriter(part / "ledger")
            records = _records(folders, tags, found, owners)
            while bodies := list(islice(records, BATCH)):
                writer.append(*bodies)
            writer.close()
            if not found.conflicts or keep_first:
                found.cells = _cells(folders, part)
                found.images = _files(folders, part, owners)
                write_manifest(part, manifest)
                write_tables(part)
                os.rename(part, into)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return found


def _manifests(folders: Sequence[Path], mixed: bool) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The manifest of the whole, and for each folder what its rows' tags become."""
    whole: dict[str, Any] | None = None
    tags: list[dict[str, str]] = []
    for folder in folders:
        own = read_manifest(folder)
        require(own is not None, f"there is no study at {folder}; give the folder that holds manifest.json")
        assert own is not None
        if whole is not None:
            same = own["study"] == whole["study"]
            require(same, f"{folder} is of the study {own['study']!r}, {folders[0]} of {whole['study']!r}: merge one study")
            wanted, there = ((m.get("reference") or {}).get("id") for m in (whole, own))
            require(wanted == there, f"{folder} compares with another reference than {folders[0]}; they cannot be one study")
        known = {own["fingerprint_id"]: own["fingerprint"], **own.get("others", {})}
        tags.append({})
        for tag, fingerprint in known.items():
            try:
                whole = agree(whole, own["study"], fingerprint, mixed)
            except UserError as error:
                raise UserError(f"{folder}: {str(error).partition('; go on')[0]}; --allow-mixed merges all the same") from error
            tags[-1][tag] = whole["current"]
        assert whole is not None
        kept = {"reference": own["reference"]} if "reference" in own else {}
        begun = min(m["created"] for m in (own, whole) if "created" in m)
        whole |= kept | {"created": begun}
        tags[-1].setdefault(fingerprint_id(own["fingerprint"]), tags[-1][own["fingerprint_id"]])
    assert whole is not None
    return whole, tags


def _records(
    folders: Sequence[Path], tags: Sequence[Mapping[str, str]], found: Merged, owners: dict[UnitKey, int]
) -> Iterator[Body]:
    """Every record that the whole is to have; `found` and the folder of each unit's row are filled on the way."""
    rows: dict[UnitKey, str] = {}
    others: dict[tuple[Any, ...], bool] = {}
    twice: list[tuple[int, Body]] = []
    for place, (folder, renamed) in enumerate(zip(folders, tags, strict=True)):
        reader = LedgerReader(folder / "ledger")
        for body in reader.read():
            body = {**body, "fingerprint": renamed.get(str(body.get("fingerprint")), body.get("fingerprint"))}
            kind = body["type"]
            if kind == "unit":
                key, mark = unit_key(body), _mark(body)
                if key not in rows:
                    rows[key], owners[key] = mark, place
                else:
                    found.equal += rows[key] == mark and owners[key] != place
                    twice += [(place, body)] if rows[key] != mark else []
                    continue
            elif kind in ("timing", "noise"):
                name = (kind, *unit_key(body), body["repeat" if kind == "timing" else "other_seed"])
                if name in others and not (others[name] and not body.get("contended")):
                    found.timings += kind == "timing"
                    continue
                others[name] = bool(body.get("contended"))
            yield body
        found.damage += [f"{folder}: {line}" for line in reader.damage]
    found.rows = len(rows)
    found.conflicts = _conflicts(folders, owners, twice)


def _mark(body: Body) -> str:
    """Stands for what a row says, circumstances aside."""
    sample = {k: v for k, v in body.get("sample", {}).items() if k not in VOLATILE and k not in CIRCUMSTANCES}
    return hashlib.sha256(canonical([sample, body.get("stages")]).encode()).hexdigest()


def _conflicts(folders: Sequence[Path], owners: Mapping[UnitKey, int], twice: Sequence[tuple[int, Body]]) -> list[str]:
    """A line for each row that differs from the one that stays, which is read again."""
    wanted, first = {unit_key(body) for _, body in twice}, dict[UnitKey, Body]()
    for place in {owners[key] for key in wanted}:
        first |= first_rows(folders[place], {key for key in wanted if owners[key] == place})
    lines = []
    for place, body in twice:
        cell, label, seed = key = unit_key(body)
        shown = "; ".join(row_differences(first[key], body)[:4])
        lines.append(f"cell {cell}, label {label}, seed {seed}: {folders[owners[key]]} and {folders[place]} differ: {shown}")
    return lines


def _cells(folders: Sequence[Path], part: Path) -> int:
    """Every cell once, with all units that were planned for it anywhere; how many."""
    cells: dict[str, dict[str, Any]] = {}
    order = count()
    for folder in folders:
        for cell, about in read_cells(folder).items():
            known = cells.setdefault(cell, {**about, "order": next(order), "planned": []})
            known["planned"] = [*known["planned"], *(block for block in about["planned"] if block not in known["planned"])]
            if (about["timing"].get("units") or 0) > (known["timing"].get("units") or 0):
                known["timing"] = about["timing"]
    for cell, about in cells.items():
        atomic_write(part / "cells" / f"{cell}.json", (json.dumps(about, indent=1) + "\n").encode())
    return len(cells)


def _files(folders: Sequence[Path], part: Path, owners: Mapping[UnitKey, int]) -> int:
    """Images of the rows that stayed, each from the folder of its row; what is kept beside the ledger, from the first folder.

    That is the cache of baselines, differences of the code, and the names of the classes.
    """
    images = 0
    for place, folder in enumerate(folders):
        for path in sorted(folder.glob("images/*/*.png")):
            name = IMAGE_NAME.fullmatch(path.name)
            if name and owners.get((path.parent.name, int(name[1]), int(name[2]))) == place:
                _copy(path, part / path.relative_to(folder))
                images += 1
        for path in (*folder.glob("cache/baseline/*.npz"), *folder.glob("provenance/*"), *folder.glob("classes.txt")):
            _copy(path, part / path.relative_to(folder))
    return images


def _copy(path: Path, to: Path) -> None:
    """Copy a file that is not there yet."""
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
