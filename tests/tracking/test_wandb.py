"""With the real wandb: what lies in its files, and what a server that refuses or hangs costs. Slow to start, so few."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdvar_exp.store import Study
from sdvar_exp.tracking import Options, push, push_in_child, start_follower
from sdvar_exp.tracking.content import run_id
from tests.store.making import FINGERPRINT, make_plan, opened, timing_body, unit_body
from tests.tracking.reading import Logged, read_run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder to look into, and none of the user's W&B settings."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("WANDB_NAME", "would be the name of every run")
    monkeypatch.setenv("WANDB_DIR", str(folder / "elsewhere"))
    return folder


def fill(study: Study, cells: list[str], labels: tuple[int, ...], seeds: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for cell in cells:
        for label in labels:
            for seed in seeds:
                image = rng.random((3, 8, 8))
                study.write_image(cell, label, seed, image)
                if cell != cells[0]:
                    study.write_image(cell, label, seed, image, "_diff")
                study.append(unit_body(cell, label, seed))


def runs_of(folder: Path) -> dict[str, Logged]:
    found = [read_run(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]
    assert len({logged.run["id"] for logged in found}) == len(found), "one folder per run"
    return {logged.run["id"]: logged for logged in found}


def check_run(logged: Logged, study: str, cell: str, name: str, rows: list[dict]) -> None:
    assert logged.run == {"id": run_id(study, cell), "project": "sdvar_exp", "group": study, "name": name}
    assert logged.config["cell"] == cell and logged.config["checkpoints"] == FINGERPRINT["checkpoints"]
    history = [h for h in logged.history if "label" in h]
    assert [h["_step"] for h in history] == list(range(len(rows)))
    for have, want in zip(history, rows, strict=True):
        assert (have["label"], have["seed"]) == (want["label"], want["seed"])
        assert have["pixel_mae"] == want["sample"]["pixel_mae"] and have["identical"] == 0 and "psnr_db" not in have
    mean = sum(r["sample"]["pixel_mae"] for r in rows) / len(rows)
    assert logged.summary["pixel_mae"] == pytest.approx(mean, rel=1e-12), "the mean, not the last row"
    assert logged.summary["units"] == len(rows) and logged.exit_code == 0
    table = next(h for h in logged.history if any(k.startswith("images") for k in h))
    assert table["_step"] == len(rows) and table["images/nrows"] == len(rows) and table["images/_type"] == "table-file"


@pytest.mark.long
def test_a_sweep_is_followed_offline_and_pushed_again_when_it_grows(home: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "results", seeds=(0, 1))
    ids = [p.cell.id for p in plan.cells]
    units = [(label, seed) for label in (3, 8) for seed in (0, 1)]
    study = opened(plan)
    follower = start_follower(plan.folder, "offline")
    fill(study, ids, (3, 8), (0, 1))
    outcome = follower.finish(60)
    assert outcome.ok and "3 runs" in outcome.message and "sdvar-exp push" in outcome.message, outcome
    found = runs_of(plan.folder)
    for planned in plan.cells:
        rows = [unit_body(planned.cell.id, *unit) for unit in units]
        logged = found[run_id("made_up", planned.cell.id)]
        check_run(logged, "made_up", planned.cell.id, planned.name, rows)
    logged = found[run_id("made_up", ids[2])]
    assert logged.config["gamma"] == {"name": "fixed", "value": 3} and logged.config["lossless"] == "no"
    check_images(logged, plan.folder, count=len(units))

    before = snapshot(plan.folder / "wandb")
    assert push_in_child(plan.folder, "offline", 60).ok
    assert snapshot(plan.folder / "wandb") == before, "a second push sends nothing"

    study.append(timing_body(ids[1], 3, 0, 0, 20.0, 10.0))
    study.close()
    more = replace(plan, seeds=(0, 1, 2))
    with opened(more) as study:
        fill(study, [ids[2]], (3,), (2,))
    assert push_in_child(plan.folder, "offline", 60).ok
    found = runs_of(plan.folder)
    rows = [unit_body(ids[2], *unit) for unit in [(3, 0), (3, 1), (3, 2), (8, 0), (8, 1)]]
    check_run(found[run_id("made_up", ids[2])], "made_up", ids[2], plan.cells[2].name, rows)
    timed = found[run_id("made_up", ids[1])]
    assert timed.history[0]["speedup"] == 2 and timed.summary["speedup"] == 2 and len(found) == 3
    assert list(home.rglob("*")) == [] and list(Path.cwd().iterdir()) == [], "nothing outside the study"


def check_images(logged: Logged, folder: Path, count: int) -> None:
    """Sample, baseline and difference of every unit are in the table's artifact, as files that exist."""
    (files,) = logged.artifacts.values()
    table = json.loads(Path(files["images.table.json"]).read_text())
    assert table["columns"][:5] == ["label", "seed", "sample", "baseline", "diff"] and len(table["data"]) == count
    for row in table["data"]:
        for cell in row[2:5]:
            assert cell["_type"] == "image-file" and (cell["width"], cell["height"]) == (8, 8)
            kept = Path(files[cell["path"]])
            assert kept.read_bytes()[:4] == b"\x89PNG" and kept.is_relative_to(folder / "wandb")


def test_a_push_of_a_finished_study_has_a_run_for_the_whole(home: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "results", seeds=(0,))
    ids = [p.cell.id for p in plan.cells]
    with opened(plan) as study:
        fill(study, ids, (3, 8), (0,))
        shutil.copytree(plan.folder / "images" / ids[1], plan.folder / "figures")
    (plan.folder / "report.html").write_text("<h1>page</h1>")
    assert len(push(plan.folder, "offline").sent) == 4 and not push(plan.folder, "offline").sent
    found = runs_of(plan.folder)
    whole = found[run_id("made_up", "study")]
    assert (whole.job_type, whole.tags, whole.run["group"], whole.run["name"]) == ("study", ["study"], "made_up", "made_up")
    (media,) = (row for row in whole.history if any(key.startswith("table") for key in row))
    assert media["table/nrows"] == 3 and media["figures/3_0/_type"] == "image-file" and media["report/_type"] == "html-file"
    assert (whole.summary["cells"], whole.summary["units"]) == (3, 6)
    loop = found[run_id("made_up", ids[2])]
    assert loop.job_type == "cell" and set(loop.tags) == {"parallel_v1", "lossy", f"cell {ids[2]}"}
    assert found[run_id("made_up", ids[0])].job_type == "baseline"
    (plan.folder / "report.html").write_text("<h1>another page</h1>")
    assert push(plan.folder, "offline").sent == ("study",) and len(runs_of(plan.folder)) == 4


def snapshot(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "follower.log"}


class Server:
    """A loopback server that hangs: it accepts and never answers."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.calls = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.calls += 1
            self._open.append(connection)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def close(self) -> None:
        for connection in (*self._open, self.socket):
            connection.close()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["hangs", "refuses"])
def test_a_bad_server_costs_bounded_time(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    plan = make_plan(tmp_path / "results", seeds=(0,))
    with opened(plan) as study:
        fill(study, [p.cell.id for p in plan.cells], (3, 8), (0,))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    server = Server()
    url = server.url
    if kind == "refuses":
        server.close()
    follower = start_follower(plan.folder, Options("online", base_url=url))
    deadline = time.monotonic() + 60
    while kind == "hangs" and not server.calls and time.monotonic() < deadline:
        time.sleep(0.1)
    start = time.monotonic()
    outcome = follower.finish(4)
    assert time.monotonic() - start < 10
    assert follower.process is not None and follower.process.poll() is not None, "the child is gone"
    assert not outcome.ok and "sdvar-exp push" in outcome.message and "\n" not in outcome.message
    assert server.calls > 0 or kind == "refuses"
    server.close()
    assert not (plan.folder / "tracking" / "pushed.json").exists(), "nothing is remembered as sent"
    monkeypatch.delenv("WANDB_API_KEY")
    assert push_in_child(plan.folder, "offline", 60).ok and len(runs_of(plan.folder)) == 3, "nothing is lost"
