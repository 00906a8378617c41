"""`push` says what was sent; what it sends is tested in tests/tracking."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdvar_exp.tracking import Outcome
from tests.cli.conftest import make_study

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What W&B has, by cell, once a push is over; a push takes it as it is then."""
    content: dict[str, Any] = {}

    def child(folder: Path, options: Any, timeout_s: float, plugins: Any) -> Outcome:
        (folder / "tracking").mkdir(exist_ok=True)
        (folder / "tracking/pushed.json").write_text(json.dumps({options.mode: content}))
        return Outcome(True, f"W&B ({options.mode}): {len(content)} runs" if content else "")

    monkeypatch.setattr("sdvar_exp.tracking.follower.push_in_child", child)
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    return content


def test_it_says_how_many_runs_were_sent_now(accepted: dict[str, Any], call: Call) -> None:
    make_study("a")
    assert call("push", "a") == (0, "results/a: nothing to send\n", "")
    accepted.update({"x": {"hash": "1"}, "y": {"hash": "2"}})
    assert call("push", "a")[1] == "W&B (online): 2 runs; sent now: 2 runs\n"
    assert call("push", "a")[1] == "W&B (online): 2 runs; sent now: nothing new\n"
    accepted["y"] = {"hash": "3"}
    (found,) = json.loads(call("push", "a", "--json")[1])
    assert (found["ok"], found["sent"], found["mode"]) == (True, 1, "online")


def test_a_push_that_fails_is_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study("a")
    monkeypatch.setattr("sdvar_exp.tracking.follower.push_in_child", lambda *_: Outcome(False, "W&B (online): refused"))
    assert call("push", "a", "--mode", "online") == (1, "W&B (online): refused\n", "")


def test_it_sends_unless_the_environment_says_otherwise(
    accepted: dict[str, Any], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Online by default; WANDB_MODE and --mode come first. An unknown tracker is refused with those there are."""
    make_study("a")
    accepted["x"] = {"hash": "1"}
    assert call("push", "a")[1].startswith("W&B (online)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert call("push", "a")[1].startswith("W&B (offline)")
    assert call("push", "a", "--mode", "online")[1].startswith("W&B (online)")
    code, _, err = call("push", "a", "--to", "nowhere")
    assert code == 2 and "unknown tracker 'nowhere'; choose one of trackio, wandb" in err
