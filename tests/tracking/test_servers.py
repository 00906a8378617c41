"""A whole sweep beside a W&B server that refuses, hangs, errs or dies in mid-run: the sweep is the one without W&B.

Events are asserted, not times. The sweep is on the fake backend; wandb and its child process are the real ones.
"""

from __future__ import annotations

import io
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sdvar_exp.plan import Plan
from sdvar_exp.runner.running import finish, presence
from sdvar_exp.runner.running import run as runner
from sdvar_exp.runner.running.run import run_study
from sdvar_exp.runner.running.work import Task
from sdvar_exp.store import stable_csv
from sdvar_exp.store.lock import process_exists
from sdvar_exp.tracking import push_in_child, start_follower
from tests.engines.fake import Fake, FakeBackend
from tests.store.making import make_plan
from tests.tracking.reading import read_run

WAIT_S = 90.0


class Server:
    """Listens on loopback. kind: `hangs` never answers; `errs` answers 500; `dies` breaks off its first answer and is gone."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.called, self.gone = threading.Event(), threading.Event()
        self._open: list[socket.socket] = []
        if kind == "refuses":
            self.close()
        else:
            threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self.gone.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self._open.append(connection)
            self.called.set()
            if self.kind == "hangs":
                continue
            connection.recv(65536)
            if self.kind == "errs":
                connection.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                connection.close()
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{")
                self.close()

    def close(self) -> None:
        self.gone.set()
        for each in (*self._open, self.socket):
            each.close()


@dataclass(frozen=True)
class Gated(Fake):
    """Does not decode the very last unit before `gate` is set: cells before are pushed, and the server acts, in mid-run."""

    gate: Any = None

    def __call__(self, plan: Plan) -> FakeBackend:
        backend, last = FakeBackend(plan, self), plan.cells[-1].cell.id
        evaluate: Callable[..., list[dict[str, Any]]] = backend.evaluate

        def wait_at_the_end(task: Task, shared: Any) -> list[dict[str, Any]]:
            final = task.cell.id == last and (task.units[-1].label, task.units[-1].seed) == (plan.labels[-1], plan.seeds[-1])
            if final and self.gate is not None:
                assert self.gate.wait(WAIT_S), "W&B's child never called the server"
            return evaluate(task, shared)

        backend.evaluate = wait_at_the_end  # type: ignore[method-assign]
        return backend


@pytest.fixture(autouse=True)
def _nobodys_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv(presence.VARIABLE, str(tmp_path / "presence"))
    monkeypatch.setattr(finish, "write_figures", lambda *_, **__: [])
    monkeypatch.setattr(runner, "FINISH_S", 4.0)


def sweep(root: Path, mode: str, url: str | None = None, gate: Any = None) -> tuple[Plan, int, str]:
    """Run three cells with W&B in a mode: the plan, the exit code and what was printed."""
    plan = make_plan(root, seeds=(0, 1))
    settings = replace(plan.settings, tracking=mode, base_url=url, images="none", device="cpu", threads=1)
    plan, out = replace(plan, settings=settings), io.StringIO()
    code = run_study(plan, Console(file=out, width=300), backend=Gated(gate=gate))
    return plan, code, out.getvalue()


def tables(plan: Plan) -> dict[str, str]:
    return {name: stable_csv(plan.folder, name) for name in ("samples", "stages", "runs")}


@pytest.mark.parametrize(
    "kind", ["refuses", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("dies", "hangs", "errs"))]
)
def test_a_sweep_beside_a_bad_server(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(runner, "start_follower", lambda *a, **k: started.append(start_follower(*a, **k)) or started[-1])
    alone, code, _ = sweep(tmp_path / "none", "none")
    assert code == 0
    server = Server(kind)
    gate = {"dies": server.gone, "hangs": server.called, "errs": server.called, "refuses": None}[kind]
    try:
        plan, code, text = sweep(tmp_path / "online", "online", server.url, gate)
    finally:
        server.close()
    assert code == 0 and tables(plan) == tables(alone), "the same sweep, byte for byte"
    assert "W&B (online): " in text and "`sdvar-exp push` sends what is missing" in text
    process = started[-1].process
    assert process is not None and not process_exists(process.pid), "the child is gone"
    assert not (plan.folder / "tracking" / "pushed.json").exists(), "nothing is remembered as sent"
    if kind == "dies":
        monkeypatch.delenv("WANDB_API_KEY")
        check_push(plan)


def check_push(plan: Plan) -> None:
    """Everything can be pushed later, from the ledger; a second push sends nothing."""
    outcome = push_in_child(plan.folder, "offline", WAIT_S)
    assert outcome.ok, outcome.message
    runs = {run.run["name"]: run for run in map(read_run, (plan.folder / "wandb").glob("offline-run-*"))}
    assert set(runs) == {plan.study, *(p.name for p in plan.cells)}, "one of the study as a whole"
    assert all(len([h for h in runs[p.name].history if "label" in h]) == 4 for p in plan.cells)
    before = (plan.folder / "tracking" / "pushed.json").read_bytes()
    files = sorted((plan.folder / "wandb").rglob("*.wandb"))
    assert push_in_child(plan.folder, "offline", WAIT_S).ok
    assert (plan.folder / "tracking" / "pushed.json").read_bytes() == before
    assert sorted((plan.folder / "wandb").rglob("*.wandb")) == files and set(json.loads(before)) == {"offline"}


@pytest.mark.long
def test_offline_and_none_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FINISH_S", WAIT_S)
    (none, code, text), (offline, other, more) = (sweep(tmp_path / mode, mode) for mode in ("none", "offline"))
    assert code == other == 0 and tables(none) == tables(offline)
    assert not (none.folder / "wandb").exists() and "W&B" not in text
    assert "W&B (offline): 3 runs in " in more
    assert len(list((offline.folder / "wandb").glob("offline-run-*"))) == 3
