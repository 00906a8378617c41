"""Which cells are complete, read from the ledger as it grows. No wandb, no pandas."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdvar_exp.store.ledger import LedgerReader
from sdvar_exp.store.manifest import planned_units, read_cells

Unit = tuple[int, int]


@dataclass(frozen=True)
class Planned:
    """What the plan asks of a cell. timings: number of timing records."""

    units: frozenset[Unit]
    timings: int


class Progress:
    """Units, failures and timings by cell. `update` reads what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader = LedgerReader(folder / "ledger")
        self._done: dict[str, set[Unit]] = defaultdict(set)
        self._failed: dict[str, set[Unit]] = defaultdict(set)
        self._timed: dict[str, set[tuple[int, int, int]]] = defaultdict(set)
        self._timing_at: float | None = None
        self._planned: dict[str, Planned] = {}
        self._planned_at = 0

    def update(self) -> None:
        """Take in the records since the last time, and the plan if it has changed."""
        for body in self._reader.read():
            kind = body.get("type")
            if kind == "unit":
                self._done[body["cell"]].add((body["label"], body["seed"]))
            elif kind == "failure":
                self._failed[body["cell"]].add((body["label"], body["seed"]))
            elif kind == "timing":
                self._timed[body["cell"]].add((body["label"], body["seed"], body["repeat"]))
                self._timing_at = time.monotonic()
        with suppress(FileNotFoundError):
            changed = (self._folder / "cells").stat().st_mtime_ns  # files are replaced, which the folder notes
            if changed != self._planned_at:
                self._planned = {cell: _planned(about) for cell, about in read_cells(self._folder).items()}
                self._planned_at = changed

    def timing_now(self, quiet_s: float) -> bool:
        """Whether a timing was recorded in the last `quiet_s` seconds: no moment to load the machine."""
        return self._timing_at is not None and time.monotonic() - self._timing_at < quiet_s

    def settled(self, final: bool) -> list[str]:
        """Cells with rows that no planned unit is missing from, in plan order.

        A failed unit is missing only while the study runs (it may be tried again), and so are planned timings.
        """
        return [cell for cell, planned in self._planned.items() if self._is_settled(cell, planned, final)]

    def _is_settled(self, cell: str, planned: Planned, final: bool) -> bool:
        done = self._done[cell]
        if final:
            return bool(done) and planned.units <= done | self._failed[cell]
        enough = len(done) >= len(planned.units) and len(self._timed[cell]) >= planned.timings
        return bool(done) and enough and planned.units <= done


def _planned(about: Mapping[str, Any]) -> Planned:
    units = frozenset(planned_units(about))
    timing, batch = about.get("timing", {}), about.get("config", {}).get("batch", 1)
    timed = -(-min(timing.get("units", 0), len(units)) // batch)  # one record stands for a lockstep batch
    return Planned(units, timed * timing.get("repeats", 0))
