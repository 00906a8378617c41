"""`report --watch`: the page of a study that is running, written from its ledger while it grows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdvar_exp.cli import main, report
from sdvar_exp.cli.status import state_of
from sdvar_exp.report.page import live
from tests.page.making import make_study

Wait = Callable[[Iterator[None]], None]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Four cells: one has not begun, one lacks two images."""
    folder = make_study(tmp_path, cells=3, labels=(3,), seeds=3, timed=3, images=False)
    *_, last = sorted((folder / "cells").glob("*.json"), key=lambda path: json.loads(path.read_text())["order"])
    about = json.loads(last.read_text())
    plan(last, seeds=[0, 1, 2, 3, 4])
    new = {**about, "id": "abcdefabcdef", "name": "<i>not begun</i>", "order": 9}
    (folder / "cells" / "abcdefabcdef.json").write_text(json.dumps(new))
    return folder


def plan(cell: Path, seeds: list[int]) -> None:
    about = json.loads(cell.read_text())
    cell.write_text(json.dumps({**about, "planned": [{"labels": [3], "seeds": seeds}]}))


def finish(folder: Path) -> None:
    """The study as if it were complete."""
    (folder / "cells" / "abcdefabcdef.json").unlink()
    for cell in (folder / "cells").glob("*.json"):
        plan(cell, seeds=[0, 1, 2])


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Wait:
    """between(steps): instead of sleeping, take the next step of a generator; no priority is lowered."""

    def use(steps: Iterator[None]) -> None:
        monkeypatch.setattr(report.time, "sleep", lambda _: next(steps))
        monkeypatch.setattr(report.os, "nice", lambda _: 0, raising=False)
        monkeypatch.setattr(live, "FIGURES", ("target-calls-and-token-forwards",))

    return use


def test_it_is_written_while_the_study_runs_and_ends_with_it(
    study: Path, between: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    page = study / "report.html"

    def steps() -> Iterator[None]:
        text = page.read_text(encoding="utf-8")
        assert '<meta http-equiv="refresh" content="7">' in text and "data:image/svg+xml" in text
        assert "9 of 14 images decoded, 9 of 12 timings made" in text and "Not begun yet: 1" in text
        assert "<li>&lt;i&gt;not begun&lt;/i&gt;</li>" in text and 'value="18"' in text and 'max="26"' in text
        assert {p for p in study.rglob("*") if p.is_file()} == {*before, page}, "no lock, no table, no figure of its own"
        assert {path: path.read_bytes() for path in before} == before
        written = page.stat().st_mtime_ns
        yield
        assert page.stat().st_mtime_ns == written, "nothing is new"
        finish(study)
        yield

    between(steps())
    assert main(["report", str(study), "--watch", "--every", "7"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "refresh" not in text and "not begun" not in text
    assert capsys.readouterr().out.count("page     ") == 2


def test_ctrl_c_ends_it_and_keeps_the_page(study: Path, between: Wait, capsys: pytest.CaptureFixture[str]) -> None:
    def steps() -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    between(steps())
    assert main(["report", str(study), "--watch"]) == 0
    assert "stopped watching" in capsys.readouterr().out and "refresh" in (study / "report.html").read_text(encoding="utf-8")


def test_what_is_left_counts_failures_and_timings(study: Path) -> None:
    state = state_of(study)
    assert (state["pending"], state["untimed"]) == (5, 3) and not report.complete(state)
    done = {**state, "pending": 2, "failed": 2, "untimed": 0}
    assert report.complete(done), "what failed is not waited for"
    assert not report.complete({**done, "lock": {"state": "live"}}) and not report.complete({**done, "cells": []})
    assert report.far({**done, "lock": {"state": "live"}}).startswith("Running: 9 of 14 images decoded, 12 of 12 timings")
    assert "Not running; the same command goes on" in report.far(state)


@pytest.mark.parametrize("every", ["0", "nan", "soon", "1e9"])
def test_an_interval_is_some_seconds(every: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["report", "any", "--watch", "--every", every], ["push", "any", "--timeout", every]):
        assert main(words) == 2
        assert "give seconds from 0.1 to 86400" in capsys.readouterr().err
