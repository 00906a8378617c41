"""Failures, a full disk, signals."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from sdvar_exp.decoding import api
from sdvar_exp.errors import UserError
from sdvar_exp.runner.measuring import baselines
from sdvar_exp.runner.running import finish
from sdvar_exp.store import load_tables, stable_csv
from tests.runner.watching import EXACT, MakePlan, Run, break_at, records, throw


def test_a_failure_is_recorded_and_the_run_goes_on(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, small = plan(folder="whole"), plan()
    run(whole)
    with monkeypatch.context() as patch:
        break_at(patch, 2, throw(ValueError("no such code")))
        code, text = run(small)
    assert code == 1 and "failed: test3 K=3, label 0, seed 0: ValueError: no such code" in text
    assert "1 failed; try them again: sdvar-exp run study=study 'labels=[0,3]'" in text
    (failure,) = records(small, "failure")
    assert failure["attempt"] == 1 and "Traceback" in failure["traceback"]
    assert len(records(small, "unit")) == 15
    with monkeypatch.context() as patch:
        break_at(patch, 1, throw(MemoryError("no room")))
        assert run(small)[0] == 1
    assert re.fullmatch(r"oom: MemoryError: no room( \(peak memory \d+ bytes\))?", records(small, "failure")[1]["error"])
    assert run(small)[0] == 0
    assert stable_csv(small.folder) == stable_csv(whole.folder)
    samples = load_tables(small.folder).samples
    assert Counter(samples["attempt"]) == {1: 15, 3: 1}


def test_cells_wait_for_a_baseline_that_failed(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small = plan({"exact": EXACT}, seeds=(0,))

    def decode(pair: Any, cell: Any, of: Any, **more: Any) -> Any:
        if of[0].label == 3:
            raise ValueError("no such code")
        return api.decode(pair, cell, of, **more)

    with monkeypatch.context() as patch:
        patch.setattr(baselines, "decode", decode)
        assert run(small)[0] == 1
    assert {(b["label"], b["error"].split(":")[0]) for b in records(small, "failure")} == {
        (3, "ValueError"),
        (3, "BaselineError"),
    }
    assert {b["label"] for b in records(small, "unit")} == {0}
    assert run(small)[0] == 0 and len(records(small, "unit")) == 4


def test_a_full_disk_stops_the_run(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small = plan()

    def fsync(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        break_at(patch, 3, lambda: patch.setattr(os, "fsync", fsync))
        with pytest.raises(UserError, match="No space left"):
            run(small)
    assert records(small, "failure") == [] and not (small.folder / "lock").exists()
    assert run(small)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_lets_the_unit_finish_and_says_how_to_continue(
    number: signal.Signals, plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = plan()
    with monkeypatch.context() as patch:
        break_at(patch, 3, lambda: os.kill(os.getpid(), number))
        code, text = run(small)
    assert code == (143 if number == signal.SIGTERM else 130) and "sdvar-exp run study=study 'labels=[0,3]'" in text
    assert len(records(small, "unit")) == 4 and not (small.folder / "lock").exists()
    assert run(small)[0] == 0 and len(records(small, "unit")) == 16


def test_secrets_are_not_printed(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(plan(), argv=("tracking.api_key=hush",))
    break_at(monkeypatch, 1, throw(KeyboardInterrupt()))
    assert "hush" not in run(small)[1]


def test_a_failure_in_drawing_does_not_hide_the_results(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("write_figures", "write_page"):
        monkeypatch.setattr(finish, name, lambda *_, **__: 1 / 0)
    monkeypatch.setattr("sdvar_exp.report.typeset.write_typeset", lambda *_, **__: 1 / 0)
    code, text = run(plan(seeds=(0,)))
    assert code == 1 and "tables  " in text
    for lost in ("tables for a paper", "figures", "page"):
        assert f"failed: no {lost}: ZeroDivisionError" in text
