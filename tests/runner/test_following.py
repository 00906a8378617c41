"""W&B's child is started and ended in bounded time, and the runner does not mind what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sdvar_exp.runner.running import finish
from sdvar_exp.runner.running import run as runner
from sdvar_exp.tracking import Options, Outcome
from tests.runner.watching import DRAFT_ONLY, MakePlan, Run, break_at, throw


class Child:
    """Stands in for a `Follower`."""

    def __init__(self, outcome: Outcome, waits_for: threading.Event | None = None) -> None:
        self.outcome, self.waits_for = outcome, waits_for
        self.started: list[tuple[Path, Options]] = []
        self.finished: list[float] = []

    def start(self, folder: Path, options: Options, plugins: Sequence[str] = ()) -> Child:
        self.started.append((folder, options))
        return self

    def finish(self, timeout_s: float) -> Outcome:
        self.finished.append(timeout_s)
        assert self.waits_for is None or self.waits_for.wait(60)
        return self.outcome


def test_the_child_is_told_the_mode_and_its_message_is_shown(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = threading.Event()
    child = Child(Outcome(False, "W&B (offline): refused"), waits_for=drawn)
    places = finish.places
    monkeypatch.setattr(finish, "places", lambda *args: (drawn.set(), places(*args))[1])  # the last thing that a run makes
    monkeypatch.setattr(runner, "start_follower", child.start)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    small = plan({"draft_only": DRAFT_ONLY}, seeds=(0,), tracking="offline")
    code, text = run(small)
    assert code == 0, "W&B decides nothing"
    assert child.started == [(small.folder, Options("offline"))] and child.finished == [runner.FINISH_S]
    assert text.rstrip().endswith("W&B (offline): refused")


def test_the_command_line_beats_the_environment(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(Outcome(True))
    monkeypatch.setattr(runner, "start_follower", child.start)
    monkeypatch.setenv("WANDB_MODE", "online")
    small = plan({"draft_only": DRAFT_ONLY}, seeds=(0,), tracking="offline")
    run(small)
    run(replace(small, argv=("tracking=none",), settings=replace(small.settings, tracking="none")))
    assert [options.mode for _, options in child.started] == ["online", "none"]


def test_an_interrupt_ends_the_child_soon(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(Outcome(True))
    monkeypatch.setattr(runner, "start_follower", child.start)
    break_at(monkeypatch, 1, throw(KeyboardInterrupt()))
    assert run(plan({"draft_only": DRAFT_ONLY}))[0] == 130
    assert child.finished == [runner.BROKEN_OFF_S]
