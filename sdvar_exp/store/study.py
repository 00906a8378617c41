"""A study on disk: one coordinator opens it, units are appended to its ledger, tables are written from it.

Layout of the folder: manifest.json, cells/, ledger/, images/, cache/baseline/, tables/, figures/, lock.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdvar_exp.errors import UserError
from sdvar_exp.store import baseline, images, manifest
from sdvar_exp.store.files import StorageError, make_folders, remove_empty
from sdvar_exp.store.ledger import LedgerWriter
from sdvar_exp.store.lock import StudyLock, held
from sdvar_exp.store.state import LedgerState, UnitKey
from sdvar_exp.store.timing import log_ratio

if TYPE_CHECKING:
    from sdvar_exp.plan import Plan
    from sdvar_exp.store.tables import Tables


class Study:
    """`open` it as the coordinator or `attach` to it as a worker; `state`, `done` and the images need neither."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._lock = StudyLock(self.folder / "lock")
        self._writer: LedgerWriter | None = None
        self._state = LedgerState(self.folder)
        self._tag = ""
        self._siblings: list[Path] | None = None

    @property
    def ledger(self) -> Path:
        """Folder of the ledger's files."""
        return self.folder / "ledger"

    def open(self, plan: Plan, fingerprint: Mapping[str, Any], allow_mixed: bool = False) -> Study:
        """Take the study's lock, check its fingerprint and add the plan's cells.

        Raises `UserError`, leaving the disk as it was: another process has it open, it was made under another
        fingerprint (unless allow_mixed), or the folder cannot be written (`StorageError`).
        """
        try:
            made = make_folders(self.folder)
        except OSError as error:
            raise StorageError(
                f"results folder {self.folder} cannot be made: {error.strerror or error}; choose another results_dir"
            ) from error
        try:
            self._lock.acquire()
            known = manifest.read_manifest(self.folder)
            agreed = manifest.agree(known, plan.study, fingerprint, allow_mixed, self.folder)
            agreed |= manifest.reference_record(plan.reference) if known is None else {}
            manifest.write_manifest(self.folder, agreed)
            self.add_cells(plan)
        except BaseException:
            if made and self._lock.held:  # a folder that began with this call holds nothing but its beginnings
                shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.release()
            remove_empty(made)
            raise
        self._start(agreed["current"])
        return self

    def attach(self, fingerprint: Mapping[str, Any] | None = None) -> Study:
        """Join a study that a coordinator has opened, to append units; takes no lock.

        fingerprint: this process's own; `UserError` if the study knows none like it (code changed since the start).
        """
        known = manifest.read_manifest(self.folder)
        if known is None:
            raise UserError(f"there is no study at {self.folder}; start it with the run command")
        if fingerprint is None:
            self._start(known["fingerprint_id"])
            return self
        allowed = bool(known.get("others"))
        agreed = manifest.agree(known, known["study"], fingerprint, allowed)
        if agreed["current"] not in (known["fingerprint_id"], *known.get("others", {})):
            found = "; ".join(manifest.differences(known["fingerprint"], agreed["others"][agreed["current"]]))
            raise UserError(f"study {known['study']} was started under another fingerprint ({found}); start it again")
        self._start(agreed["current"])
        return self

    def join(self, plan: Plan, fingerprint: Mapping[str, Any], patience_s: float = 60.0) -> Study:
        """Work beside the coordinator that has just opened the study: add the plan's cells, take no lock.

        For jobs of one sweep that were started at once. Raises `UserError` where there is no study after all, or it has
        another fingerprint.
        """
        deadline = time.monotonic() + patience_s
        while manifest.read_manifest(self.folder) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        self.attach(fingerprint)
        self.add_cells(plan)
        return self

    def add_cells(self, plan: Plan) -> None:
        """Add the cells and units of a plan. One process at a time, so that each cell gets a place of its own."""
        with held(self.folder / "cells.lock"):
            manifest.write_cells(self.folder, plan)

    def _start(self, tag: str) -> None:
        self._tag = tag
        self._writer = LedgerWriter(self.ledger)

    def append(self, *bodies: Mapping[str, Any]) -> None:
        """Commit records; they are on disk when this returns. Units of one lockstep batch go in one call.

        Records get the tag of the fingerprint; units also host, pid and time, where they do not bring them.
        Raises `StorageError` (disk full, …), leaving no half-written line.
        """
        if self._writer is None:
            raise RuntimeError("open the study, or attach to it, before appending")
        self._writer.append(*map(self._tagged, bodies))

    def _tagged(self, body: Mapping[str, Any]) -> dict[str, Any]:
        tagged = {"fingerprint": self._tag, **body}
        if body.get("type") == "unit":
            where = {"host": socket.gethostname(), "pid": os.getpid()}
            when = {"finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
            tagged["sample"] = {**where, **when, **body.get("sample", {})}
        return tagged

    def state(self) -> LedgerState:
        """State of the ledger by now, of all processes. Reads only what is new; the same object at every call."""
        return self._state.update()

    def done(self) -> AbstractSet[UnitKey]:
        """(cell, label, seed) of every unit with a row, of all processes up to now. Reads only what is new.

        The set grows with the next call; it is not copied, as it is asked for after every unit where others write too.
        """
        return self.state().units.keys()

    def failures(self) -> Counter[UnitKey]:
        """Number of failures of each unit, of all processes up to now; a copy."""
        return self.state().attempts()

    def timed(self) -> Mapping[UnitKey, Mapping[int, float]]:
        """log(baseline ÷ cell) of each repeat that was timed alone on the device, by unit."""
        return {
            unit: {repeat: log_ratio(body) for repeat, body in repeats.items() if not body.get("contended")}
            for unit, repeats in self.state().timings.items()
        }

    def timed_beside(self) -> AbstractSet[UnitKey]:
        """Units with a repeat that was timed beside another process and not yet alone."""
        timings = self.state().timings.items()
        return {unit for unit, repeats in timings if any(body.get("contended") for body in repeats.values())}

    def noise_pairs(self) -> AbstractSet[tuple[str, int, int, int]]:
        """(cell, label, seed, other seed) of every pair of images that was compared, each an unrelated draw to the other."""
        return self.state().noise

    def cells(self) -> dict[str, dict[str, Any]]:
        """Content of `cells/*.json`, by id, in plan order."""
        return manifest.read_cells(self.folder)

    def image_path(self, cell: str, label: int, seed: int, suffix: str = "") -> Path:
        """Path of a unit's image, if it was kept."""
        return self.folder / "images" / cell / images.image_name(label, seed, suffix)

    def write_image(self, cell: str, label: int, seed: int, array: np.ndarray, suffix: str = "") -> Path:
        """Write an image, floats (3, H, W) in [0, 1], as PNG before its unit is appended. suffix: see `image_name`."""
        path = self.image_path(cell, label, seed, suffix)
        images.write_png(path, array)
        return path

    def link_image(self, cell: str, label: int, seed: int, of: str) -> bool:
        """Let a unit's image be that of another cell, stored once; False where that is not there or cannot be linked."""
        return images.link(self.image_path(cell, label, seed), self.image_path(of, label, seed))

    def baseline_get(self, key: str, shared: bool = False) -> dict[str, Any] | None:
        """Cached tokens, image and summaries of a baseline, or None. shared: also what other studies of the folder have cached.

        A key says all that a baseline depends on, code and machine included, so that what others made is the same.
        """
        found = baseline.get(self.folder / "cache" / "baseline", key)
        if found is None and shared:
            if self._siblings is None:
                caches = self.folder.parent.glob("*/cache/baseline")
                self._siblings = [cache for cache in caches if cache.parents[1] != self.folder]
            found = next((values for cache in self._siblings if (values := baseline.get(cache, key)) is not None), None)
            if found is not None:
                self.baseline_put(key, found)
        return found

    def baseline_put(self, key: str, values: Mapping[str, Any]) -> None:
        """Cache tokens, image and summaries of a baseline (arrays and plain values, never times)."""
        baseline.put(self.folder / "cache" / "baseline", key, values)

    def write_tables(self) -> Tables:
        """Derive all tables from the ledger and write them as parquet and csv; the tables."""
        from sdvar_exp.store.tables import write_tables

        return write_tables(self.folder)

    def close(self) -> None:
        """Close the ledger file and give the lock back. Safe to call twice."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._lock.release()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
