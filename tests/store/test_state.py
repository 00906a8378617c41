"""One state of a ledger: every record is folded in once, and what is asked of it agrees with the tables."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import sdvar_exp
from sdvar_exp.store.ledger import LedgerWriter
from sdvar_exp.store.manifest import timings_of
from sdvar_exp.store.state import LedgerState, read_rows

UNIT = {"cell": "a", "label": 3, "seed": 0}


def unit(at: str, pid: int = 1, **more: Any) -> dict[str, Any]:
    sample = {"finished_at": f"2026-01-01T00:00:{at}Z", "host": "h", "pid": pid}
    return {"type": "unit", "fingerprint": "f", **UNIT, **more, "sample": sample, "stages": []}


def failure(**more: Any) -> dict[str, Any]:
    return {"type": "failure", **UNIT, "error": "oom", "traceback": "Traceback …", "attempt": 1, **more}


def timing(repeat: int, **more: Any) -> dict[str, Any]:
    return {"type": "timing", **UNIT, "repeat": repeat, "baseline_ms": 30.0, "cell_ms": 10.0, **more}


@pytest.fixture
def writer(tmp_path: Path) -> LedgerWriter:
    return LedgerWriter(tmp_path / "ledger")


def test_records_are_folded_once_and_new_ones_later(tmp_path: Path, writer: LedgerWriter) -> None:
    state = LedgerState(tmp_path)
    assert not state.update().units and state.last is None and state.unit_seconds() is None
    writer.append(failure(), failure(error="again", attempt=2), failure(seed=1))
    assert {key: body["error"] for key, body in state.update().failed.items()} == {("a", 3, 0): "again", ("a", 3, 1): "oom"}
    writer.append(unit("01"), unit("05"), unit("04", seed=2), timing(0), timing(0, cell_ms=99.0), timing(1, cell_ms=30.0))
    made = {("a", 3, 0): "2026-01-01T00:00:01Z", ("a", 3, 2): "2026-01-01T00:00:04Z"}
    assert state.update() is state.update() and state.units == made, "the first row of a unit counts"
    assert state.attempts() == {("a", 3, 0): 2, ("a", 3, 1): 1} and list(state.failed) == [("a", 3, 1)]
    assert state.timings_by_cell() == {"a": 2} and state.timing_seconds() == pytest.approx(0.05)
    assert not any("traceback" in body for body in state.failures)
    assert state.last == pytest.approx(1767225605) and state.unit_seconds() == (2.0, 2), "a clock set back took no time"
    for at, less in (("08", {"pid": None}), ("20", {"host": None}), ("30", {"host": None}), ("40", {"finished_at": None})):
        row = unit(at, seed=int(at))
        writer.append({**row, "sample": {**row["sample"], **less}})
    assert state.update().unit_seconds() == (2.0, 2), "who names no process is no other"


def test_the_rate_is_between_units_of_one_process_and_not_across_its_starts(tmp_path: Path, writer: LedgerWriter) -> None:
    start = {"type": "session", "host": "h", "pid": 1, "started_at": "2026-01-01T00:00:20Z", "cells": ["a"]}
    rows = [unit("01"), unit("03", seed=1), unit("04", pid=2, seed=2), start, unit("30", seed=3), unit("34", seed=4)]
    writer.append(*rows)
    state = LedgerState(tmp_path).update()
    assert state.unit_seconds() == (3.0, 2) and state.seconds_for({"a": 2, "b": 1}) == 9.0
    writer.append(*(unit(f"{10 * k:02}", pid=7, cell="b", seed=k) for k in range(4)))
    state.update()
    assert state.unit_seconds() == (36 / 5, 5), "each cell at its own rate, where three of its units say it"
    assert state.seconds_for({"a": 2, "b": 1, "c": 0}) == 2 * 36 / 5 + 10.0


def test_of_one_cell_with_tracebacks(tmp_path: Path, writer: LedgerWriter) -> None:
    sessions = [{"type": "session", "host": "h", "pid": 1, "cells": cells} for cells in (["a", "b"], ["b"])]
    writer.append(*sessions, unit("01"), unit("02", cell="b"), failure(), failure(cell="b"), timing(0), timing(0, cell="b"))
    state = LedgerState(tmp_path, "a", tracebacks=True).update()
    assert len(state.sessions) == 1 and list(state.units) == [("a", 3, 0)] and state.timings_by_cell() == {"a": 1}
    assert [body["traceback"] for body in state.failures] == ["Traceback …"]
    assert [body.get("traceback") for body in read_rows(tmp_path).failures] == [None, None], "long texts, unless asked for"


def test_nobody_else_folds_a_ledger() -> None:
    """Modules that read records: the state, the tables and a merge; others look for one kind of record alone, or ask these."""
    folder = Path(sdvar_exp.__file__).parent
    readers = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("LedgerReader"):
                readers.add(file.relative_to(folder).as_posix())
    one_kind = {"cli/announce.py", "store/ledger.py", "store/features.py"}
    assert readers == {"store/state.py", "store/tables.py", "store/merge.py"} | one_kind


@pytest.mark.parametrize(
    ("about", "timings"),
    [
        ({"timing": {"units": 5, "repeats": 3}, "config": {"batch": 4}}, 6),
        ({"timing": {"units": 50, "repeats": 2}, "config": {}}, 12),
        ({"timing": {"units": 5, "repeats": 3, "of_a_later_version": True}, "config": {"batch": None}}, 15),
        ({"timing": {"units": None, "repeats": 3}}, 0),
        ({}, 0),
    ],
)
def test_how_many_timings_a_cell_is_to_have(about: dict[str, Any], timings: int) -> None:
    """Whole batches of the first units, each `repeats` times; of files that say less, or more, too."""
    assert timings_of({**about, "planned": [{"labels": [0, 1], "seeds": [0, 1, 2]}]}) == timings
