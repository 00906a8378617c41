"""Finds complete cells, read from the ledger as it grows. No wandb, no pandas."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from sdvar_exp.store.manifest import planned_units, read_cells, timings_of
from sdvar_exp.store.state import LedgerState, UnitKey


class Progress:
    """The complete cells of a study. `update` reads what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._state = folder, LedgerState(folder)
        self._timed, self._timing_at = 0, 0.0
        self._planned: dict[str, tuple[frozenset[UnitKey], int]] = {}  # units and number of timings, by cell
        self._cells_at = 0

    def update(self) -> None:
        """Take in the records since the last time, and the plan if it has changed."""
        timed = self._state.update().timings_by_cell().total()
        if timed > self._timed:
            self._timed, self._timing_at = timed, time.monotonic()
        with suppress(FileNotFoundError):
            changed = (self._folder / "cells").stat().st_mtime_ns  # files are replaced, which the folder notes
            if changed != self._cells_at:
                cells = read_cells(self._folder)
                self._planned = {c: (frozenset((c, *u) for u in planned_units(a)), timings_of(a)) for c, a in cells.items()}
                self._cells_at = changed

    def timing_now(self, quiet_s: float) -> bool:
        """Whether a timing was recorded in the last `quiet_s` seconds: no moment to load the machine."""
        return self._timed > 0 and time.monotonic() - self._timing_at < quiet_s

    def settled(self, final: bool) -> list[str]:
        """Cells with rows that no planned unit is missing from, in plan order.

        A failed unit is missing only while the study runs (it may be tried again), and so are planned timings.
        """
        done = self._state.units.keys()
        over = done | self._state.failed.keys() if final else done
        timed = self._state.timings_by_cell()
        return [
            cell
            for cell, (planned, timings) in self._planned.items()
            if (final or timed[cell] >= timings) and planned <= over and not planned.isdisjoint(done)
        ]
