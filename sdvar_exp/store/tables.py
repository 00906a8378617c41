"""Tables derived from ledger, manifest and cells: `samples`, `stages`, `runs`, `timings`, `failures`, `noise`.

The order of rows is that of the plan (cell, label, seed, stage), whatever the order in which the ledger was written.
Of two rows of one unit the first in ledger order stays; a difference between them is logged and listed in `notes`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.registry import changes
from sdvar_exp.store.columns import (
    CHOICES,
    CIRCUMSTANCES,
    FAILURES,
    FORMERLY,
    NOISE,
    ROUNDS,
    RUNS,
    SAMPLES,
    SCHEMA,
    SPECS,
    STAGES,
    TABLES,
    TIMED,
    TIMINGS,
    VOLATILE,
)
from sdvar_exp.store.files import write_frame
from sdvar_exp.store.frames import TEXT, FrameBuilder
from sdvar_exp.store.kept import kept_frames
from sdvar_exp.store.ledger import LedgerReader
from sdvar_exp.store.manifest import choice_texts, is_kept, planned_units, read_cells, read_manifest
from sdvar_exp.store.records import Body
from sdvar_exp.store.rounds import round_columns
from sdvar_exp.store.state import UnitKey, keep_timing, unit_key
from sdvar_exp.store.timing import timing_row, unit_times

log = logging.getLogger(__name__)

NOWHERE = 1_000_000_000  # order of a cell that no plan describes: behind all others


@dataclass(frozen=True)
class Tables:
    """DataFrames as `columns.py` names them. notes: damaged ledger lines and units that were committed twice."""

    samples: pd.DataFrame
    stages: pd.DataFrame
    runs: pd.DataFrame
    timings: pd.DataFrame
    failures: pd.DataFrame
    noise: pd.DataFrame
    notes: tuple[str, ...] = ()

    def where(self, keep: Callable[[str, pd.DataFrame], Any]) -> Tables:
        """The rows that `keep`, given the name of a table and the table, chooses by a mask; None for all of them."""
        frames = {}
        for name in TABLES:
            frame: pd.DataFrame = getattr(self, name)
            if (mask := keep(name, frame)) is not None:
                frames[name] = frame[mask].reset_index(drop=True)
        return replace(self, **frames)


def load_tables(folder: Path | str, cells: Collection[str] | None = None, stages: bool = True) -> Tables:
    """Tables of a study, read anew from its ledger, or, where it was kept without one, from its parquet files.

    Raises `UserError` if there is no study.
    cells: only these. stages: False leaves `stages` empty; it has ten times the rows of all others, which is time and memory.
    """
    folder = Path(folder)
    kept = kept_frames(folder, cells, stages)
    if kept is not None:
        return Tables(**{**kept, "samples": _with_times(kept["samples"], _times_of(kept["timings"]))})
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"there is no study at {folder}; give the folder that holds manifest.json")
    known = read_cells(folder)
    reader = LedgerReader(folder / "ledger")
    scan = _Scan(manifest, {cell: about.get("config", {}) for cell, about in known.items()}, with_stages=stages)
    for body in _bodies(reader, cells):
        scan.take(body)
    notes = (*reader.damage, *_disagreements(folder, scan.twice))
    runs = _runs(manifest, {c: known[c] for c in known if cells is None or c in cells}, scan)
    frames = {name: _finish(frame, manifest["study"], known) for name, frame in scan.frames().items()}
    return Tables(**frames, runs=runs, notes=notes)


@dataclass
class _Scan:
    """Rows that one pass over the ledger collects."""

    manifest: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    with_stages: bool = True
    samples: FrameBuilder = field(default_factory=lambda: FrameBuilder(SAMPLES))
    stages: FrameBuilder = field(default_factory=lambda: FrameBuilder(STAGES))
    units: dict[UnitKey, None] = field(default_factory=dict)
    twice: list[Body] = field(default_factory=list)
    failed: list[Body] = field(default_factory=list)
    times: dict[UnitKey, dict[int, Body]] = field(default_factory=lambda: defaultdict(dict))
    pairs: dict[tuple[UnitKey, int], Body] = field(default_factory=dict)

    def take(self, body: Body) -> None:
        kind = body.get("type")
        if kind == "unit":
            self._unit(body)
        elif kind == "timing":
            keep_timing(self.times, body)
        elif kind == "failure":
            self.failed.append(body)
        elif kind == "noise":
            self.pairs.setdefault((unit_key(body), body["other_seed"]), body)

    def _unit(self, body: Body) -> None:
        if unit_key(body) in self.units:
            self.twice.append(body)
            return
        self.units[unit_key(body)] = None
        tag = body.get("fingerprint")
        identity = {name: body[name] for name in ("cell", "label", "seed")}
        tagged = {"fingerprint": tag, "mixed": tag not in (None, self.manifest["fingerprint_id"])}
        sample, rows = body.get("sample", {}), body.get("stages", ())
        rounds = round_columns(sample, rows, self.configs.get(body["cell"], {}))
        self.samples.add({**sample, **dict.fromkeys((*TIMED, *ROUNDS)), **rounds, **identity, **tagged})
        for stage in rows if self.with_stages else ():
            self.stages.add({**identity, **{FORMERLY["stages"].get(k, k): v for k, v in stage.items()}})

    def frames(self) -> dict[str, pd.DataFrame]:
        """Every table but `runs`, without what follows from the cell alone."""
        timings, failures, noise = FrameBuilder(TIMINGS), FrameBuilder(FAILURES), FrameBuilder(NOISE)
        for repeats in self.times.values():
            for _, body in sorted(repeats.items()):
                timings.add(timing_row(body))
        for body in self.failed:
            failures.add({**_plain(body), "done": unit_key(body) in self.units})
        for body in self.pairs.values():
            noise.add(_plain(body))
        samples = _with_times(self.samples.frame(), self.times)
        named = {"timings": timings.frame(), "failures": failures.frame(), "noise": noise.frame()}
        return {"samples": samples, "stages": self.stages.frame(), **named}


def write_tables(folder: Path | str) -> Tables:
    """Write every table as parquet and csv to `tables/`, each file whole or not at all; the tables.

    Those of a study that was kept without its ledger are left as they are.
    """
    folder = Path(folder)
    tables = load_tables(folder)
    if is_kept(folder):
        return tables
    for name in TABLES:
        frame: pd.DataFrame = getattr(tables, name).copy(deep=False)
        frame.attrs = {"sdvar_exp": {"table": name, "schema": SCHEMA}}  # kept in the file's metadata
        write_frame(folder / "tables" / name, frame)
    return tables


def _plain(body: Body) -> Body:
    return {k: v for k, v in body.items() if k not in ("type", "fingerprint")}


def _bodies(reader: LedgerReader, cells: Collection[str] | None) -> Iterator[Body]:
    only = next(iter(cells)) if cells is not None and len(cells) == 1 else None
    for body in reader.read(containing=f'"{only}"'.encode() if only else None):
        if cells is None or body.get("cell") in cells:
            yield body


def _with_times(samples: pd.DataFrame, times: Mapping[UnitKey, dict[int, Body]]) -> pd.DataFrame:
    """Fill the columns of TIMED from the timing records of each unit; rows without any become null."""
    if not times:
        return samples
    rows = FrameBuilder(TIMED)
    for key in zip(samples["cell"], samples["label"], samples["seed"], strict=True):
        found = times.get(key)
        rows.add(unit_times([found[r] for r in sorted(found)]) if found else {})
    return samples.assign(**{name: column.array for name, column in rows.frame().items()})


def _times_of(timings: pd.DataFrame) -> dict[UnitKey, dict[int, Body]]:
    """Rows of `timings` as the records that they come from."""
    found: dict[UnitKey, dict[int, Body]] = defaultdict(dict)
    for row in timings.to_dict("records"):
        found[unit_key(row)][int(row["repeat"])] = {k: None if pd.isna(v) else v for k, v in row.items()}
    return found


def _finish(frame: pd.DataFrame, study: str, known: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Fill what follows from the cell alone, and sort in plan order."""
    codes, ids = pd.factorize(frame["cell"])
    cells = [known.get(cell, {}) for cell in ids]
    texts = [{"study": study, "name": c.get("name"), **choice_texts(c.get("config", {}))} for c in cells]
    filled: dict[str, Any] = {}
    for column in ("study", "name", *CHOICES, *SPECS):
        if column in frame:
            filled[column] = pd.array([t[column] for t in texts], dtype=TEXT).take(codes)
    order = np.array([int(c.get("order", NOWHERE)) for c in cells], dtype=np.int64)
    frame = frame.assign(**filled, _order=order.take(codes))
    keys = ["_order", "cell", "label", "seed", *(k for k in ("stage", "repeat", "attempt", "other_seed") if k in frame)]
    return frame.sort_values(keys, kind="stable", ignore_index=True).drop(columns="_order")


def _runs(manifest: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], scan: _Scan) -> pd.DataFrame:
    """One row per cell of the study, also where it has no unit yet."""
    done = Counter(cell for cell, _, _ in scan.units)
    failures = Counter(body["cell"] for body in scan.failed)
    machine = {k: _flat(v) for k, v in manifest["fingerprint"].items()}
    builder = FrameBuilder(RUNS)
    for cell, c in known.items():
        timing = c.get("timing", {})
        plan = {"planned": len(planned_units(c))} | {f"timing_{k}": _flat(timing.get(k)) for k in ("units", "repeats", "band")}
        row = {k: c[k] for k in ("name", "lossless", "order", "baseline")} | choice_texts(c["config"])
        row["own_baseline"] = c.get("own_baseline", c["baseline"])
        texts = {"config": _flat(c["config"]), "overrides": " ".join(c["overrides"])}
        counts = {"units": done[cell], "failures": failures[cell]}
        builder.add({"study": manifest["study"], "cell": cell, **row, **texts, **plan, **counts, **machine})
    return builder.frame()


def _flat(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def _disagreements(folder: Path, twice: list[Body]) -> list[str]:
    """One line for every unit that was committed twice with different values; equal twins are no news."""
    if not twice:
        return []
    first, notes = first_rows(folder, set(map(unit_key, twice))), []
    for later in twice:
        cell, label, seed = unit_key(later)
        found = row_differences(first[cell, label, seed], later)
        if found:
            shown = "; ".join(found[:4]) + ("; …" if len(found) > 4 else "")
            notes.append(f"unit {cell} label {label} seed {seed} was committed twice, the first row stays: {shown}")
            log.warning("%s", notes[-1])
    return notes


def first_rows(folder: Path, keys: Container[UnitKey]) -> dict[UnitKey, Body]:
    """The record of each of these units that counts, the first in a study's ledger."""
    first: dict[UnitKey, Body] = {}
    for body in LedgerReader(folder / "ledger").read(containing=b'"unit"'):
        if body.get("type") == "unit" and unit_key(body) in keys:
            first.setdefault(unit_key(body), body)
    return first


def row_differences(first: Body, later: Body) -> list[str]:
    """Differences between two records of one unit, circumstances aside, e.g. `target_calls 5 and 6`."""
    changed = sorted(changes(first.get("sample", {}), later.get("sample", {})))
    found = [f"{name} {a!r} and {b!r}" for name, a, b in changed if name not in VOLATILE and name not in CIRCUMSTANCES]
    return found + (["stages differ"] if first.get("stages") != later.get("stages") else [])
