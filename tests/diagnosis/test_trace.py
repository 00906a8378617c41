"""`debug=trace`: what is written down is what happened, and nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.config import compose
from sdvar_exp.decoding.api import decode
from sdvar_exp.decoding.session import ModelSession
from sdvar_exp.diagnosis import lines
from sdvar_exp.diagnosis.trace import Trace, tokens_digest, trace_decode
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import choose
from tests.decoding.cells import hand_off, loop, sequential
from tests.runner.conftest import CELLS as STUDIED
from tests.runner.conftest import plan, run  # noqa: F401 (fixtures)
from tests.support import near_pair

UNITS = [Unit(1, 0), Unit(7, 3)]
CELLS: dict[str, Cell] = {
    "sequential": sequential(),
    "exact": loop("exact", 3),
    "rejection, bonus": loop("rejection", (3, 0, 2), bonus=True),
    "repair, continue": loop(choose("acceptance", "match_rate", repair=True), 2, on_reject="continue"),
    "hybrid, unguided proposals": loop("exact", 2, until=3, draft_cfg="off"),
    "no_prefix": hand_off(2, "no_prefix"),
}


@pytest.fixture(scope="module")
def pair() -> Pair:
    return near_pair("tiny", "float64", shift=0.08)


def traced(pair: Pair, cell: Cell, units: list[Unit]) -> tuple[Any, list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    with torch.inference_mode():
        return trace_decode(pair, cell, units, None, records.append), records


@pytest.mark.parametrize("name", CELLS)
def test_watching_changes_nothing(pair: Pair, name: str) -> None:
    """Tokens, counts and rounds are those of a decode that nobody watches, and every call of the counts is written down."""
    cell = CELLS[name]
    plain = decode(pair, cell, UNITS, record=False)
    seen, records = traced(pair, cell, UNITS)
    assert all(torch.equal(a, b) for a, b in zip(plain.tokens, seen.tokens, strict=True))
    assert (plain.counts, plain.rounds) == (seen.counts, seen.rounds)
    calls = [r for r in records if r["event"] == "call"]
    for role, count, rows in (
        ("draft", plain.counts.draft_calls, plain.counts.draft_rows),
        ("target", plain.counts.target_calls, plain.counts.target_rows),
    ):
        own = [c for c in calls if c["model"] == role]
        assert len(own) == count and sum(c["rows"] * c["halves"] for c in own) == rows
        assert [(c["first"], c["stop"], c["halves"]) for c in own] == [
            (p.first, p.stop, p.halves) for p in plain.passes if p.role == role
        ]
    assert [r["round"] for r in records if r["event"] == "round"] == list(range(len(plain.rounds)))
    assert records[-1]["tokens"] == tokens_digest(plain)
    assert all(json.loads(json.dumps(r)) == r for r in records), "records are plain data"


def test_a_round_as_it_was(pair: Pair) -> None:
    """γ = 2 of five stages with the draft as the target: shapes, cache, guidance, verdicts and reason of the first round."""
    _, records = traced(replace(pair, draft=pair.target), loop("exact", 2), UNITS)
    start, first, second, verify, closed = records[:5]
    assert start["dtype"] == "float64" and start["units"] == [{"label": 1, "seed": 0}, {"label": 7, "seed": 3}]
    width, vocab = pair.target.width, pair.target.vocab_size
    assert [first["model"], second["model"], verify["model"]] == ["draft", "draft", "target"]
    assert (verify["first"], verify["stop"], verify["rows"], verify["halves"]) == (0, 2, 5, 2)
    assert verify["input"] == {"shape": [4, 5, width], "dtype": "float64", "device": "cpu"}
    assert verify["mask"] == {"shape": [5, 5], "open": 1 + 4 * 5}
    assert verify["logits"]["shape"] == [4, 5, vocab] and verify["finite"]
    assert (verify["cache"]["before"], verify["cache"]["after"]) == (0, 5)
    assert (second["cache"]["before"], second["cache"]["after"]) == (1, 5)
    assert verify["guidance"] == [0.0, round(1.5 / (pair.pyramid.stages - 1), 6)]
    assert (closed["gamma"], closed["reason"], closed["committed"]) == (2, "fixed", 2)
    assert closed["cache"] == {"draft": 5, "target": 5}
    assert closed["stages"] == [
        {
            "stage": k,
            "passed": True,
            "passed_each": [True, True],
            "match": [1.0, 1.0],
            "acceptance": [1.0, 1.0],
            "committed": True,
        }
        for k in (0, 1)
    ]
    assert {"draft", "verify", "accept"} <= set(closed["ms"]) and closed["total_ms"] > 0


def test_a_rollback_shows(pair: Pair) -> None:
    """With `never` the first of three proposed stages alone is committed: both caches go back to it."""
    _, records = traced(pair, loop("never", 3), UNITS)
    closed = next(r for r in records if r["event"] == "round")
    assert closed["cache"] == {"draft": 1, "target": 1}
    assert [s["acceptance"] for s in closed["stages"]] == [[0.0, 0.0]]
    after = records[records.index(closed) + 1]
    assert (after["first"], after["cache"]["before"]) == (1, 1)


def test_the_table_is_for_reading(pair: Pair) -> None:
    _, records = traced(pair, CELLS["exact"], UNITS[:1])
    table = lines.table(records)
    assert table[0].endswith(
        f"label 1 seed 0: target calls {records[-1]['counts']['target_calls']}, "
        f"draft calls {records[-1]['counts']['draft_calls']}"
    )
    assert table[1].split("  ")[0] == "call"
    assert sum("round" in line for line in table) == sum(r["event"] == "round" for r in records)
    assert len({line.index("float64") for line in table if "float64" in line}) == 1, "columns are aligned"


def test_what_led_to_a_crash_is_there(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[dict[str, Any]] = []
    made = ModelSession._guide

    def guide(self: ModelSession, *args: Any) -> Any:
        if self.stage > 2:
            raise RuntimeError("out of cheese")
        return made(self, *args)

    monkeypatch.setattr(ModelSession, "_guide", guide)
    with pytest.raises(RuntimeError):
        trace_decode(pair, CELLS["sequential"], UNITS, None, records.append)
    assert records[-1] == {"event": "error", "error": "RuntimeError: out of cheese"} and records[-2]["event"] == "call"
    assert lines.table(records)[-1] == "  stopped here: RuntimeError: out of cheese"


@pytest.mark.long
def test_debug_trace_of_a_study(plan: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Ledger and tables are those of a run without it; the folder trace/ has a file per decode, the terminal a table."""
    some = {"cells": {name: STUDIED[name] for name in ("sequential", "parallel_v1 exact γ=2")}, "seeds": (0,)}
    code, _ = run(plan(folder="plain", **some))
    watched = plan(folder="watched", debug="trace", **some)
    again, text = run(watched)
    assert code == again == 0
    assert not (watched.folder.parent.parent / "plain/study/trace").exists()
    files = sorted((watched.folder / "trace").glob("*.jsonl"))
    assert len(files) == 2 * 2 and "parallel_v1 exact γ=2, label 0 seed 0: target calls" in text and "traces   " in text
    from sdvar_exp.store import stable_csv

    plain = watched.folder.parent.parent / "plain/study"
    for table in ("samples", "stages", "runs"):
        assert stable_csv(watched.folder, table) == stable_csv(plain, table)
    for file in files:
        records = [json.loads(line) for line in file.read_text().splitlines()]
        assert records[0]["event"] == "start" and records[-1]["event"] == "end"
    ran: list[str] = []
    monkeypatch.setattr(Trace, "forward", lambda *_: ran.append("traced"))
    run(plan(folder="again", **some))
    assert not ran, "nobody watches without debug=trace"


@pytest.mark.long
def test_a_unit_that_is_done_is_traced_too_and_a_failure_counts(plan: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    small = {
        "cells": {"sequential": STUDIED["sequential"], "parallel_v1 exact γ=2": STUDIED["parallel_v1 exact γ=2"]},
        "labels": (0,),
        "seeds": (0,),
        "debug": "trace",
    }
    assert run(plan(**small))[0] == 0
    code, text = run(plan(**small))
    assert code == 0 and "1 label × 1 seed" in text and "target calls" in text
    monkeypatch.setattr(Trace, "round", lambda *_: 1 / 0)
    code, text = run(plan(**small))
    assert code == 1 and "stopped here: ZeroDivisionError" in text


def test_the_yaml_asks_for_one_image_and_no_times() -> None:
    made = compose(["debug=trace", "strategy=parallel_v1"])
    assert (made.settings.debug, made.labels, made.seeds, made.settings.timing.units) == ("trace", (0,), (0,), 0)
    assert compose(["debug=trace", "labels=[3,5]"]).labels == (3, 5)
    assert Path("results").exists() is False
