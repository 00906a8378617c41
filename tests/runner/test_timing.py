"""The timing phase."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from sdvar_exp.plan import Timing
from sdvar_exp.runner.measuring import timing
from sdvar_exp.store import load_tables
from tests.runner.conftest import load_tiny, loop, simple
from tests.runner.watching import EXACT, SEQUENTIAL, Decodes, MakePlan, Run, break_at, records, throw


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pair counts as held up, however busy the machine is: as many are measured as asked for."""
    monkeypatch.setattr(timing, "measure_again", lambda *_: False)


@pytest.mark.usefixtures("sound")
def test_timing_is_paired_interleaved_and_has_the_baseline_against_itself(plan: MakePlan, run: Run, decodes: Decodes) -> None:
    small = plan({"exact": EXACT}, timing=Timing(2, 2))
    code, text = run(small)
    assert code == 0 and "A/A" in text
    rows = records(small, "timing")
    assert Counter((r["cell"], r["label"], r["seed"]) for r in rows) == {
        (c.id, label, 0): 2 for c in (SEQUENTIAL, EXACT) for label in (0, 3)
    }
    for cell in (SEQUENTIAL, EXACT):
        assert [r["order"] for r in rows if r["cell"] == cell.id] == ["AB", "BA", "BA", "AB"]
    for row in rows:
        assert row["baseline_ms"] > 0 and row["cell_ms"] > 0 and row["cell_decode_ms"] > 0 and row["contended"] is False
        assert sum(row["breakdown"].values()) < row["cell_ms"]
    unrecorded = Counter(name for name, _, recorded in decodes if not recorded)
    # per cell 2 units × 2 repeats and one warm-up, each with its baseline
    assert unrecorded == {"sequential": 3 * 5, "parallel_v1": 5}
    samples = load_tables(small.folder).samples
    assert samples["speedup"].notna().sum() == 4 and samples["latency_ms"].notna().sum() == 4


@pytest.mark.usefixtures("sound")
def test_timing_continues_with_what_is_missing(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small = plan({"exact": EXACT}, timing=Timing(2, 2))
    with monkeypatch.context() as patch:
        break_at(patch, 13, throw(KeyboardInterrupt()), timing)
        assert run(small)[0] == 130
    kept = records(small, "timing")
    assert 0 < len(kept) < 8
    assert run(small)[0] == 0
    rows = records(small, "timing")
    assert rows[: len(kept)] == kept and len(rows) == 8
    assert len({(r["cell"], r["label"], r["seed"], r["repeat"]) for r in rows}) == 8


def test_a_measurement_that_raises_is_recorded(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small = plan({"exact": EXACT}, timing=Timing(1, 1))
    break_at(monkeypatch, 1, throw(ValueError("no clock")), timing)
    code, text = run(small)
    assert code == 1 and "timing failed: sequential, label 0, seed 0: ValueError: no clock" in text
    assert len(records(small, "unit")) == 8 and {r["cell"] for r in records(small, "timing")} == {EXACT.id}


def test_a_batch_is_timed_against_the_baseline_in_the_same_batch(plan: MakePlan, run: Run, decodes: Decodes) -> None:
    small = plan({"B=2": loop(batch=2)}, timing=Timing(3, 1))
    run(small)
    rows = [r for r in records(small, "timing") if r["cell"] == loop(batch=2).id]
    assert [(r["batch"], r["label"], r["seed"]) for r in rows] == [(2, 0, 0), (2, 0, 1)]
    assert ("sequential", (0, 0), False) in decodes


def test_times_are_never_cached(plan: MakePlan, run: Run) -> None:
    small = plan(timing=Timing(1, 1))
    run(small)
    for path in (small.folder / "cache" / "baseline").iterdir():
        with np.load(path) as file:
            text = json.dumps([str(file[n]) for n in file.files if file[n].dtype.kind == "U"]) + str(file.files)
        assert "_ms" not in text and "time" not in text


def test_load_is_called_with_the_resolved_device(plan: MakePlan, run: Run) -> None:
    asked = []

    def load(spec: Any, device: Any, dtype: str) -> Any:
        asked.append((spec.name, str(device), dtype))
        return load_tiny(spec, device, dtype)

    run(plan({"draft_only": simple("draft_only")}, seeds=(0,), device="cpu"), load=load)
    assert asked == [("embedded", "cpu", "float32")]


def test_what_was_timed_beside_another_process_is_timed_again_by_the_next_run(
    plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = plan({"exact": EXACT}, timing=Timing(2, 1))
    with monkeypatch.context() as patch:
        patch.setattr(timing.Presence, "others", lambda _: True)
        code, text = run(small)
    assert code == 0 and "4 images timed only beside another process" in " ".join(text.split())
    assert load_tables(small.folder).samples["speedup"].isna().all()
    code, text = run(small)
    assert code == 0 and "beside another process" not in " ".join(text.split())
    assert [r["contended"] for r in records(small, "timing")] == [True] * 4 + [False] * 4
    tables = load_tables(small.folder)
    assert len(tables.timings) == 4 and tables.samples["speedup"].notna().sum() == 4
    before = len(records(small, "timing"))
    run(small)
    assert len(records(small, "timing")) == before


def test_a_pair_far_off_is_measured_again_at_once_and_said(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = 0

    def steady(job: Any, task: Any, noise: Any, order: str) -> dict[str, timing.Measured]:
        nonlocal measured
        measured += 1
        slow = 40.0 if measured == 6 else 1.0  # a hiccup in one decode of the cell
        took = {"A": 20.0, "B": 10.0 * slow if task.cell.id == EXACT.id else 20.0}
        return {letter: timing.Measured(took[letter], 1.0) for letter in order}

    monkeypatch.setattr(timing, "pair_up", steady)
    small = plan({"exact": EXACT}, timing=Timing(2, 3))
    code, text = run(small)
    assert code == 0 and "1 pairs measured in addition to 12" in text
    rows = [r for r in records(small, "timing") if r.get("again")]
    assert [(r["cell"], r["repeat"]) for r in rows] == [(EXACT.id, 3)]
    tables = load_tables(small.folder)
    assert tables.samples.query("cell == @EXACT.id")["speedup"].dropna().tolist() == pytest.approx([2, 2])
    assert int(tables.timings["again"].fillna(False).sum()) == 1
