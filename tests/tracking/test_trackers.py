"""Trackers are registered: one of a user's own gets each cell once, trackio what it can read back, a faulty cell loses only itself."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdvar_exp import registry
from sdvar_exp.store.tables import load_tables
from sdvar_exp.tracking import Options, PushError, push
from sdvar_exp.tracking.content import Content, contents
from tests.tracking.test_push import all_units, make_plan, opened


@pytest.fixture
def studied(tmp_path: Path) -> Path:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        study.append(*all_units(plan))
    return plan.folder


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> list[Content]:
    """What a tracker of one function was given; it refuses the second cell at first."""
    registry.load("tracker")
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    got: list[Content] = []

    @registry.register("tracker", "mine")
    def mine(folder: Path, options: Options, content: Content, pushed: Any) -> None:
        """Keeps what it is given."""
        if len(got) == 1 and not any(one.name == "refused" for one in got):
            got.append(SimpleNamespace(name="refused"))  # type: ignore[arg-type]
            raise ValueError("too long a name")
        got.append(content)

    return got


def test_a_users_own_tracker_gets_each_cell_and_one_that_fails_loses_only_itself(studied: Path, mine: list[Content]) -> None:
    with pytest.raises(PushError, match=r"mine did not take .*ValueError: too long a name.*1 cells were not sent, 2 were"):
        push(studied, Options("online", tracker="mine"))
    assert len(push(studied, Options("online", tracker="mine")).sent) == 1, "the one that was lost"
    assert not push(studied, Options("online", tracker="mine")).sent
    names = [one.name for one in mine if one.name != "refused"]
    assert len(names) == len(set(names)) == 3


class Run:
    def __init__(self, about: dict[str, Any]) -> None:
        self.about, self.logged, self.finished = about, [], False

    def log(self, row: dict[str, Any], step: int) -> None:
        self.logged.append((step, row))

    def finish(self) -> None:
        self.finished = True


def test_trackio_holds_every_image_and_the_means(studied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Run] = []
    fake = SimpleNamespace(init=lambda **about: runs.append(Run(about)) or runs[-1])
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setenv("TRACKIO_DIR", str(studied / "elsewhere"))
    assert len(push(studied, Options("online", project="p", tracker="trackio")).sent) == len(runs) == 3
    first = runs[0]
    assert first.finished and first.about["project"] == "p" and first.about["group"] == "made_up"
    assert first.about["config"]["strategy"]["name"] and [step for step, _ in first.logged] == list(range(7))
    assert first.logged[0][1]["label"] == 3 and "summary/target_calls" in first.logged[-1][1]
    assert not push(studied, Options("online", project="p", tracker="trackio")).sent, "nothing is sent twice"
    (studied / "tracking/pushed.json").unlink()
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(PushError, match=r"pip install 'sdvar_exp\[trackio\]'"):
        push(studied, Options("online", project="p", tracker="trackio"))


def test_trackio_reads_back_what_was_written(studied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trackio = pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    push(studied, Options("online", project="p", tracker="trackio"))
    (run, *_) = trackio.Api().runs("p")
    assert run.name


def test_the_summary_has_intervals_and_n_and_no_mean_of_classes(studied: Path) -> None:
    tables = load_tables(studied)
    counts = {"target_rows": 2, "target_rows_alone": 4, "committed_by_verify": 3, "predicted_class": 7}
    for content in contents(studied, replace(tables, samples=tables.samples.assign(**counts))):
        summary = content.summary
        assert summary["target_calls_n"] == summary["units"] == 6
        assert summary["target_calls_low"] <= summary["target_calls"] <= summary["target_calls_high"]
        assert not {"label", "seed", "predicted_class", "first_divergent_stage"} & set(summary)
        assert summary["target_token_forwards"] == 0.5 and summary["target_token_forwards_n"] == 6
        assert summary["committed_per_call"] == pytest.approx(3 / summary["target_calls"])
