"""What is sent and when, against a recorded stand-in for wandb; the real one is in test_wandb.py."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sdvar_exp.errors import UserError
from sdvar_exp.store import load_tables
from sdvar_exp.store.lock import process_exists
from sdvar_exp.tracking import Options, PushError, push, resolve, sink, start_follower
from sdvar_exp.tracking.content import contents
from sdvar_exp.tracking.follow import follow
from sdvar_exp.tracking.options import child_environment, said_on_command_line
from sdvar_exp.tracking.progress import Progress
from sdvar_exp.tracking.pushed import only_one
from tests.store.making import all_units, make_plan, opened, timing_body, unit_body


@dataclass
class FakeRun:
    arguments: dict[str, Any]
    fail_at: int | None = None
    logged: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def log(self, row: dict[str, Any], step: int, commit: bool) -> None:
        assert commit
        if self.fail_at is not None and len(self.logged) == self.fail_at:
            raise ConnectionError("server is gone\nsecond line")
        self.logged.append((step, row))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeWandb(SimpleNamespace):
    """Records runs. fail_at: rows after which the next run breaks; refuse: init raises."""

    def __init__(self) -> None:
        super().__init__(runs=[], fail_at=None, refuse=False, environment={})
        self.Settings = lambda **settings: settings
        self.Image = lambda path: Path(path).name
        self.Table = FakeTable

    def init(self, **arguments: Any) -> FakeRun:
        self.environment = dict(os.environ)
        if self.refuse:
            raise ConnectionError("refused")
        self.runs.append(FakeRun(arguments, self.fail_at))
        self.fail_at = None
        return self.runs[-1]


class FakeTable:
    def __init__(self, columns: list[str]) -> None:
        self.columns, self.data = columns, []

    def add_data(self, *row: Any) -> None:
        assert len(row) == len(self.columns)
        self.data.append(row)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def steps(run: FakeRun) -> list[tuple[int, int, int]]:
    return [(step, row["label"], row["seed"]) for step, row in run.logged if "label" in row]


def test_options_come_from_command_line_then_environment_then_files() -> None:
    files = {"mode": "offline", "project": "from file", "entity": "from file"}
    environment = {"WANDB_MODE": "online", "WANDB_PROJECT": "from environment"}
    assert resolve({}, {}, {}) == Options("offline", "sdvar_exp", None)
    assert resolve({}, files, {}) == Options("offline", "from file", "from file")
    assert resolve({}, files, environment) == Options("online", "from environment", "from file")
    composed = {"mode": "none", "tracker": "wandb", "project": "p", "entity": None, "base_url": None}
    words = ["run", "tracking=none", "+tracking.project='p'", "seeds=2", "tracking.entity=null"]
    said = said_on_command_line(words, composed)
    assert said == {"mode": "none", "tracker": "wandb", "project": "p", "entity": None}
    assert resolve(said, files, environment) == Options("none", "p", "from file")
    assert said_on_command_line(["labels=3"], composed) == {}
    mine = {"mode": "online", "tracker": "mine", "project": None}
    assert resolve({}, mine, {"WANDB_MODE": "disabled", "WANDB_PROJECT": "x"}) == Options("online", tracker="mine")
    assert resolve({"mode": None}, {}, {"WANDB_MODE": "dryrun"}).mode == "offline"
    assert resolve({}, {}, {"WANDB_MODE": "disabled"}).mode == resolve({}, files, {"WANDB_DISABLED": "true"}).mode == "none"
    with pytest.raises(UserError, match="offline, online, none, got 'onlin'"):
        resolve({"mode": "onlin"}, {}, {})


def test_the_child_gets_keys_but_no_identity_of_one_run(tmp_path: Path) -> None:
    of_one_run = {"WANDB_RUN_ID": "x", "WANDB_NAME": "n", "WANDB_SWEEP_ID": "s", "WANDB_DIR": "/d"}
    given = {"WANDB_API_KEY": "k", "HOME": "/h", **of_one_run}
    made = child_environment(tmp_path, given)
    assert made["WANDB_API_KEY"] == "k" and made["HOME"] == "/h" and made["WANDB_ERROR_REPORTING"] == "false"
    assert not of_one_run.keys() & made.keys()
    assert all(Path(made[f"WANDB_{n}_DIR"]).is_relative_to(tmp_path / "wandb") for n in ("CACHE", "DATA", "ARTIFACT"))


def test_content_of_a_cell(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, timing=1)
    cell = plan.cells[2].cell.id
    with opened(plan) as study:
        study.append(*all_units(plan), timing_body(cell, 3, 0, 0, 20, 10), timing_body(cell, 8, 1, 0, 20, 40))
        study.write_image(cell, 3, 1, np.zeros((3, 4, 4)))
    content = contents(plan.folder, load_tables(plan.folder))[2]
    assert content.cell == cell and content.name == "parallel_v1 γ=3" and content.group == "made_up"
    assert [unit for unit, _ in content.rows] == [(label, seed) for label in (3, 8) for seed in (0, 1, 2)]
    row = content.rows[0][1]
    wanted = {"label": 3, "seed": 0, "identical": 0, "speedup": 2.0, "contended": 0, "noise_ms": 1.5}
    assert row.items() >= wanted.items()
    assert not {"psnr_db", "near_tie", "host", "pid", "finished_at", "gamma_trace", "study"} & row.keys()
    assert "speedup" not in content.rows[1][1]
    assert content.summary["speedup"] == pytest.approx(1.0), "geometric mean of 2 and 1/2"
    assert "unsteady" not in content.summary, "a single repeat tells nothing"
    tables = load_tables(plan.folder)
    slower = tables.timings.assign(repeat=1, cell_ms=1.5 * tables.timings["cell_ms"])
    varying = contents(plan.folder, replace(tables, timings=pd.concat([tables.timings, slower])))[2].summary
    assert varying["unsteady"] and varying["speedup_spread"] == pytest.approx(math.log(1.5) / 0.9539, rel=1e-4)
    assert content.summary["planned"] == 6 and content.summary["identical_units"] == 0
    assert content.config["strategy"]["name"] == "parallel_v1" and content.config["packages"]["torch"] == "2.13.0"
    assert content.config["lossless"] == "no" and content.config["overrides"] == "strategy=parallel_v1 gamma.value=3"
    (picture,) = content.pictures
    assert (picture.label, picture.seed, picture.baseline, picture.diff) == (3, 1, None, None)
    assert not any(isinstance(v, float) and math.isnan(v) for v in content.config.values())


def test_a_push_sends_every_cell_and_a_second_one_nothing(tmp_path: Path, wandb: FakeWandb) -> None:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        study.append(*all_units(plan))
        study.write_image(plan.cells[1].cell.id, 3, 1, np.zeros((3, 4, 4)))
    before = dict(os.environ)
    report = push(plan.folder, "offline")
    assert report.sent == tuple(p.cell.id for p in plan.cells) and not report.unchanged
    assert dict(os.environ) == before and wandb.environment["WANDB_CACHE_DIR"].startswith(str(plan.folder.resolve()))
    run = wandb.runs[1]
    assert run.arguments["mode"] == "offline" and run.arguments["resume"] is None and run.arguments["group"] == "made_up"
    assert run.arguments["dir"] == str(plan.folder.resolve()) and run.exit_code == 0
    assert steps(run) == [(i, *unit) for i, unit in enumerate([(a, b) for a in (3, 8) for b in (0, 1, 2)])]
    step, images = run.logged[-1]
    assert step == 6 and images["images"].data[0][:5] == (3, 1, "3_1.png", None, None)
    assert len({r.arguments["id"] for r in wandb.runs}) == 3
    report = push(plan.folder, "offline")
    assert not report.sent and len(report.unchanged) == 3 and len(wandb.runs) == 3
    pushed = json.loads((plan.folder / "tracking" / "pushed.json").read_text())
    assert {e["rows"] for e in pushed["offline"].values()} == {6}
    assert push(plan.folder, "none").sent == () and len(push(plan.folder, "online").sent) == 3


def test_offline_a_cell_that_grew_is_written_again_as_a_whole(tmp_path: Path, wandb: FakeWandb) -> None:
    plan = make_plan(tmp_path)
    cell = plan.cells[1].cell.id
    home = plan.folder / "wandb"
    with opened(plan) as study:
        study.append(unit_body(cell, 3, 0), unit_body(cell, 8, 0))
        push(plan.folder, "offline")
        run_id = wandb.runs[0].arguments["id"]
        (home / f"offline-run-1-{run_id}").mkdir(parents=True)
        (home / f"offline-run-2-{run_id}").mkdir()
        (home / f"offline-run-2-{run_id}" / f"run-{run_id}.wandb.synced").touch()
        (home / "offline-run-1-other").mkdir()
        study.append(unit_body(cell, 3, 1))
        assert push(plan.folder, "offline").sent == (cell,)
    assert steps(wandb.runs[1]) == [(0, 3, 0), (1, 3, 1), (2, 8, 0)] and wandb.runs[1].arguments["id"] == run_id
    left = sorted(p.name for p in home.glob("offline-run-*"))
    assert left == ["offline-run-1-other", f"offline-run-2-{run_id}"], "what was synced is not touched"


def test_online_a_run_is_continued_with_new_and_changed_rows(tmp_path: Path, wandb: FakeWandb) -> None:
    plan = make_plan(tmp_path)
    cell = plan.cells[1].cell.id
    with opened(plan) as study:
        study.append(unit_body(cell, 3, 0), unit_body(cell, 8, 0))
        push(plan.folder, "online")
        assert steps(wandb.runs[0]) == [(0, 3, 0), (1, 8, 0)] and wandb.runs[0].arguments["resume"] == "allow"
        study.append(unit_body(cell, 3, 1), timing_body(cell, 8, 0, 0, 20, 10))
        push(plan.folder, "online")
    assert steps(wandb.runs[1]) == [(3, 3, 1), (4, 8, 0)], "step 2 was the image table's"
    assert wandb.runs[1].logged[1][1]["speedup"] == 2 and wandb.runs[1].summary["units"] == 3
    assert not push(plan.folder, "online").sent


def test_online_a_push_that_broke_off_repeats_its_steps(tmp_path: Path, wandb: FakeWandb) -> None:
    plan = make_plan(tmp_path)
    cell = plan.cells[1].cell.id
    with opened(plan) as study:
        study.append(unit_body(cell, 3, 0))
        push(plan.folder, "online")
        study.append(unit_body(cell, 8, 0), unit_body(cell, 8, 1))
        wandb.fail_at = 1
        with pytest.raises(PushError, match=r"did not take 'test3 entry_num=4': ConnectionError: server is gone;"):
            push(plan.folder, "online")
        assert wandb.runs[1].exit_code == 1 and steps(wandb.runs[1]) == [(2, 8, 0)]
        study.append(unit_body(cell, 3, 2))
        push(plan.folder, "online")
    assert steps(wandb.runs[2]) == [(2, 8, 0), (3, 8, 1), (5, 3, 2)]
    assert not push(plan.folder, "online").sent


def test_a_refusal_is_one_line(tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        study.append(*all_units(plan))
    wandb.refuse = True
    with pytest.raises(PushError, match="refused; `sdvar-exp push` tries again"):
        push(plan.folder, "online")
    wandb.refuse = False
    assert len(push(plan.folder, "online").sent) == 3
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PushError, match="install wandb, or use tracking=none"):
        push(plan.folder, "offline")


def test_long_image_tables_are_split(tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "TABLE_ROWS", 2)
    plan = make_plan(tmp_path, labels=(3,), seeds=range(5))
    cell = plan.cells[1].cell.id
    with opened(plan) as study:
        for seed in range(5):
            study.write_image(cell, 3, seed, np.zeros((3, 4, 4)))
            study.append(unit_body(cell, 3, seed))
    push(plan.folder, "offline")
    tables = wandb.runs[0].logged[-1][1]
    assert {name: len(t.data) for name, t in tables.items()} == {"images": 2, "images_2": 2, "images_3": 1}


def test_a_damaged_memory_only_sends_again(tmp_path: Path, wandb: FakeWandb, caplog: pytest.LogCaptureFixture) -> None:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        study.append(*all_units(plan))
    push(plan.folder, "offline")
    (plan.folder / "tracking" / "pushed.json").write_text("{")
    assert len(push(plan.folder, "offline").sent) == 3 and "sent again" in caplog.text


def test_two_pushes_at_once_exclude_each_other(tmp_path: Path, wandb: FakeWandb) -> None:
    plan = make_plan(tmp_path)
    opened(plan).close()
    with only_one(plan.folder), pytest.raises(UserError, match="another process is pushing"):
        push(plan.folder, "offline")
    assert push(plan.folder, "offline").sent == ()


def test_what_is_settled(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, seeds=(0,), timing=1)
    a, b, c = (p.cell.id for p in plan.cells)
    with opened(plan) as study:
        progress = Progress(plan.folder)
        study.append(*(unit_body(a, label, 0) for label in plan.labels))
        study.append(
            unit_body(b, 3, 0), {"type": "failure", "cell": b, "label": 8, "seed": 0, "error": "lost"}, unit_body(c, 3, 0)
        )
        progress.update()
        assert progress.settled(final=False) == [] and progress.settled(final=True) == [a, b]
        assert not progress.timing_now(60)
        study.append(timing_body(a, 3, 0, 0, 2, 1), timing_body(a, 3, 0, 1, 2, 1), unit_body(b, 8, 0))
        progress.update()
        assert progress.settled(final=False) == [a] and progress.timing_now(60) and not progress.timing_now(0)


def following(folder: Path, send: Callable[[Any], None]) -> tuple[threading.Thread, threading.Event]:
    ended = threading.Event()
    thread = threading.Thread(target=follow, args=(folder, send, ended, 0.01, 0.0))
    thread.start()
    return thread, ended


def test_following_sends_what_settles_and_the_rest_at_the_end(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, seeds=(0,))
    a, b, _ = (p.cell.id for p in plan.cells)
    sent: list[list[str]] = []
    first = threading.Event()
    with opened(plan) as study:
        thread, ended = following(plan.folder, lambda cells: (sent.append(list(cells)), first.set()))
        study.append(*(unit_body(a, label, 0) for label in plan.labels))
        assert first.wait(20) and sent == [[a]]
        study.append(unit_body(b, 3, 0), {"type": "failure", "cell": b, "label": 8, "seed": 0, "error": "lost"})
        ended.set()
        thread.join(20)
    assert sent == [[a], [a, b]]


def test_following_outlives_a_server_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(tmp_path, seeds=(0,))
    calls = []
    called, later = threading.Event(), threading.Event()
    settled = Progress.settled

    def asked_again(progress: Progress, final: bool) -> list[str]:
        if len(polls) > 3:
            later.set()
        polls.extend([final] * called.is_set())
        return settled(progress, final)

    polls: list[bool] = []  # after the refusal
    monkeypatch.setattr(Progress, "settled", asked_again)

    def refuse(cells: Any) -> None:
        calls.append(list(cells))
        called.set()
        if len(calls) == 1:
            raise PushError("refused")

    with opened(plan) as study:
        study.append(*all_units(plan))
        thread, ended = following(plan.folder, refuse)
        assert called.wait(20) and later.wait(20)
        assert len(calls) == 1, "it pauses before it tries again"
        ended.set()
        thread.join(20)
    assert len(calls) == 2


def test_a_child_whose_parent_is_killed_ends(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    opened(plan).close()
    code = (
        "import time\nfrom sdvar_exp.tracking import start_follower\n"
        f"print(start_follower({str(plan.folder)!r}, 'offline').process.pid, flush=True)\ntime.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert process_exists(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while process_exists(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not process_exists(child)


def test_tracking_off_starts_nothing(tmp_path: Path) -> None:
    follower = start_follower(tmp_path / "study", "none")
    assert follower.process is None and follower.finish().ok and not (tmp_path / "study").exists()


def test_a_child_that_cannot_start_is_told_not_raised(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = start_follower(tmp_path / "file", "offline").finish(1)
    why = f"not followed, cannot write {tmp_path / 'file' / 'wandb'}: Not a directory"
    assert not outcome.ok and outcome.message == f"W&B (offline): {why}"
    trackio = start_follower(tmp_path / "file", Options("online", tracker="trackio")).finish(1)
    assert not trackio.ok and trackio.message == f"trackio: {why}"
