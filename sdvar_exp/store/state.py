"""The state of a study as its ledger tells it: units with a row, failures, timings, the noise floor, sessions, the rate."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sdvar_exp.store.ledger import LedgerReader
from sdvar_exp.store.manifest import is_kept
from sdvar_exp.store.records import Body

UnitKey = tuple[str, int, int]
"""(cell, label, seed)."""
TIMED_PARTS = ("baseline_ms", "cell_ms", "baseline_decode_ms", "cell_decode_ms")

FEWEST_STEPS = 3
"""Units of a cell from which on its own rate is used."""


def unit_key(body: Mapping[str, Any]) -> UnitKey:
    """The unit that a record is about."""
    return body["cell"], body["label"], body["seed"]


def keep_timing(timings: dict[UnitKey, dict[int, Body]], body: Body) -> None:
    """Keep a timing by unit and repeat; of two of one repeat the first that was measured alone, else the first."""
    repeats, repeat = timings[unit_key(body)], int(body["repeat"])
    if repeat not in repeats or (repeats[repeat].get("contended") and not body.get("contended")):
        repeats[repeat] = body


class LedgerState:
    """Folds the records of a study's ledger into what they say; whoever asks how far a study is asks here.

    Others may still write: `update` reads what is new, so that a ledger is read once, however often it is asked.

    Args:
        folder: of the study; where it has no ledger, the state is empty.
        cell: take in the records of this cell alone, and the sessions that had it.
        tracebacks: whether failures keep theirs, which is most of their size.

    Attributes:
        units: when each unit with a row was finished (ISO 8601, or empty), in ledger order.
        failures: failed attempts in ledger order.
        timings: timing records of each unit by repeat: the first, or the first that was alone on the device.
        noise: (cell, label, seed, other seed) of the pairs that were compared for the noise floor.
        sessions: records of the starts.
        last: when the last record was written, in seconds since 1970.
    """

    def __init__(self, folder: Path, cell: str | None = None, tracebacks: bool = False) -> None:
        self.units: dict[UnitKey, str] = {}
        self.failures: list[Body] = []
        self.timings: dict[UnitKey, dict[int, Body]] = defaultdict(dict)
        self.noise: set[tuple[str, int, int, int]] = set()
        self.sessions: list[Body] = []
        self.last: float | None = None
        self._reader, self._cell, self._tracebacks = LedgerReader(folder / "ledger"), cell, tracebacks
        self._finished: dict[tuple[str, int], float] = {}  # when a process last finished a unit
        # by cell, seconds between units that one process finished one after another, and how many
        self._spent: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    def update(self) -> LedgerState:
        """Take in what all processes wrote since the last time; the state itself."""
        for body in self._reader.read(None if self._cell is None else f'"{self._cell}"'.encode(), keys_only=True):
            self.take(body)
        return self

    def take(self, body: Body) -> None:
        """Take in one record."""
        kind = body.get("type")
        if self._cell is not None and self._cell not in (body.get("cell"), *body.get("cells", ())):
            return
        if kind == "unit":
            self._unit(body)
        elif kind == "failure":
            self.failures.append(body if self._tracebacks else {k: v for k, v in body.items() if k != "traceback"})
        elif kind == "timing":
            keep_timing(self.timings, body)
        elif kind == "noise":
            self.noise.add((*unit_key(body), body["other_seed"]))
        elif kind == "session":
            self.sessions.append(body)
            self._saw(body.get("started_at"))
            self._finished.pop(_process(body), None)

    def _unit(self, body: Body) -> None:
        sample = body.get("sample") or {}
        self.units.setdefault(unit_key(body), str(sample.get("finished_at") or ""))
        at, who = self._saw(sample.get("finished_at")), _process(sample)
        if at is None or sample.get("host") is None:
            return
        if who in self._finished:
            seconds, steps = self._spent[body["cell"]]
            self._spent[body["cell"]] = seconds + max(0.0, at - self._finished[who]), steps + 1
        self._finished[who] = at

    def _saw(self, text: str | None) -> float | None:
        """Note the time of a record; it in seconds, None where there is none."""
        try:
            at = datetime.fromisoformat(text or "").timestamp()
        except ValueError:
            return None
        self.last = at if self.last is None else max(self.last, at)
        return at

    @property
    def damage(self) -> list[str]:
        """Bad lines that were met."""
        return list(self._reader.damage)

    @property
    def failed(self) -> dict[UnitKey, Body]:
        """The last failure of every unit that has no row."""
        return {key: body for body in self.failures if (key := unit_key(body)) not in self.units}

    def attempts(self) -> Counter[UnitKey]:
        """Number of failures of each unit."""
        return Counter(map(unit_key, self.failures))

    def timings_by_cell(self) -> Counter[str]:
        """Number of timings of each cell."""
        found: Counter[str] = Counter()
        for key, repeats in self.timings.items():
            found[key[0]] += len(repeats)
        return found

    def unit_seconds(self) -> tuple[float, int] | None:
        """Measured seconds per unit and over how many units; None where nothing was measured."""
        seconds, steps = (sum(part) for part in zip(*self._spent.values(), strict=True)) if self._spent else (0.0, 0)
        return (seconds / steps, int(steps)) if steps else None

    def seconds_for(self, pending: Mapping[str, int]) -> float | None:
        """Seconds that units take, given how many by cell: each cell at its own rate, or at that of all where it has none."""
        rate = self.unit_seconds()
        if rate is None:
            return None
        own = {cell: seconds / steps for cell, (seconds, steps) in self._spent.items() if steps >= FEWEST_STEPS}
        return sum(units * own.get(cell, rate[0]) for cell, units in pending.items())

    def timing_seconds(self) -> float | None:
        """Mean seconds that a timing took; None where nothing was timed."""
        bodies = [body for repeats in self.timings.values() for body in repeats.values()]
        took = sum(float(body.get(name) or 0) for body in bodies for name in TIMED_PARTS)
        return took / len(bodies) / 1000 if bodies else None


def _process(body: Mapping[str, Any]) -> tuple[str, int]:
    return str(body.get("host")), int(body.get("pid") or 0)


def read_rows(folder: Path, cell: str | None = None, tracebacks: bool = False) -> LedgerState:
    """The state of a study; of one that was kept without its ledger what its tables say: units, timings, failures."""
    state = LedgerState(folder, cell, tracebacks).update()
    for body in _kept(folder, cell) if is_kept(folder) else ():
        state.take(body)
    return state


def _kept(folder: Path, cell: str | None) -> Iterator[Body]:
    """Rows of tables as the records that they were made of, as far as a state reads them."""
    from sdvar_exp.store.tables import load_tables

    tables = load_tables(folder, None if cell is None else {cell}, stages=False)
    for row in tables.samples.to_dict("records"):
        at = row.get("finished_at")
        yield {"type": "unit", **_unit_of(row), "sample": {"finished_at": at if isinstance(at, str) else None}}
    for kind, frame in (("timing", tables.timings), ("failure", tables.failures)):
        for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
            yield {"type": kind, **row, **_unit_of(row)}


def _unit_of(row: Mapping[Any, Any]) -> Body:
    return {"cell": str(row["cell"]), "label": int(row["label"]), "seed": int(row["seed"])}
