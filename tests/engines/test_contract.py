"""What every engine owes: all units once, the same tables, failures recorded, continuing where it stopped."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdvar_exp.errors import UserError
from sdvar_exp.runner.running import sweep
from sdvar_exp.store import StorageError, Study, load_tables
from tests.engines.conftest import MakePlan, Run, keys, records, stable
from tests.engines.fake import Fake, Trouble

SLURM = pytest.param("slurm", marks=[pytest.mark.long, pytest.mark.needs("slurm", "submitit")])
ENGINES = ["inprocess", "pool", SLURM]
every_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(autouse=True)
def _cluster(request: pytest.FixtureRequest) -> None:
    """A Slurm of its own for tests that need one."""
    if "engine" in request.fixturenames and request.getfixturevalue("engine") == "slurm":
        request.getfixturevalue("cluster")


@every_engine
def test_every_unit_once_and_the_same_tables(engine: str, plan: MakePlan, run: Run) -> None:
    whole, mine = plan(folder="whole"), plan(engine, images="all")
    run(whole)
    code, text = run(mine)
    assert code == 0, text
    units = records(mine, "unit")
    assert len(units) == 24 == len(set(keys(units))) and stable(mine) == stable(whole)
    assert len(list((mine.folder / "images").rglob("*.png"))) == 24
    assert ("1 failed" in text, "24 images" in text) == (False, True)


@every_engine
def test_running_again_does_nothing_and_more_seeds_add_only_theirs(engine: str, plan: MakePlan, run: Run) -> None:
    mine = plan(engine)
    run(mine)
    code, text = run(mine)
    assert code == 0 and "24 done already" in text and len(records(mine, "unit")) == 24
    assert run(replace(mine, seeds=(0, 1, 2, 3, 4)))[0] == 0
    assert len(records(mine, "unit")) == 30 == len(set(keys(records(mine, "unit"))))


@every_engine
def test_a_unit_that_raises_takes_no_other_with_it(engine: str, plan: MakePlan, run: Run) -> None:
    whole, mine = plan(folder="whole"), plan(engine)
    run(whole)
    broken = Fake(troubles={("test3 entry_num=4", 3, 1): Trouble("raise")})
    code, text = run(mine, broken)
    assert code == 1 and "1 failed; try them again: sdvar-exp run study=study" in text
    (failure,) = records(mine, "failure")
    assert failure["error"] == "ValueError: no such code" and "in evaluate" in failure["traceback"]
    assert (failure["label"], failure["seed"], failure["attempt"]) == (3, 1, 1) and len(records(mine, "unit")) == 23
    assert run(mine)[0] == 0 and stable(mine) == stable(whole)
    assert load_tables(mine.folder).failures["done"].tolist() == [True]


@every_engine
def test_the_timing_phase_comes_last_and_in_one_process(engine: str, plan: MakePlan, run: Run) -> None:
    mine = plan(engine, timing=2)
    assert run(mine)[0] == 0
    timed = records(mine, "timing")
    assert len(timed) == 3 * 2 * 2 and len({t["pid"] for t in timed}) == 1
    assert load_tables(mine.folder).samples["speedup"].notna().sum() == 6


@every_engine
def test_code_that_changed_since_the_last_command_is_refused(engine: str, plan: MakePlan, run: Run) -> None:
    mine = plan(engine)
    run(mine)
    with pytest.raises(UserError, match="another fingerprint"):
        run(replace(mine, seeds=(0, 9)), Fake(code="changed"))
    assert len(records(mine, "unit")) == 24


def test_code_that_changes_before_its_workers_start_is_refused(plan: MakePlan, run: Run) -> None:
    """Between the start of the command and that of a worker, or of a job that waited in Slurm's queue: no row is mixed in."""
    mine = plan("pool")
    with pytest.raises(UserError, match=r"under another fingerprint \(code c0de → changed\)"):
        run(mine, Fake(code_elsewhere="changed"))
    assert not records(mine, "unit") and not (mine.folder / "lock").exists()
    assert run(mine)[0] == 0 and len(records(mine, "unit")) == 24


@pytest.mark.parametrize("engine", ["inprocess", "pool"])
def test_transient_failures_are_tried_again_after_a_pause_and_mistakes_are_not(
    engine: str, plan: MakePlan, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = plan(engine, retries=2)
    pauses: list[float] = []
    if engine == "inprocess":
        monkeypatch.setattr(sweep, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append))
    marks = tmp_path / "marks"
    marks.mkdir()
    cell = "sequential"
    fake = Fake(
        marks=marks,
        troubles={(cell, 3, 0): Trouble("flaky", 2), (cell, 3, 1): Trouble("flaky"), (cell, 3, 2): Trouble("bad_config")},
    )
    code, text = run(mine, fake)
    assert code == 1 and "2 failed" in text and len(records(mine, "unit")) == 22
    tries = [f["seed"] for f in records(mine, "failure")]
    assert {s: tries.count(s) for s in set(tries)} == {0: 2, 1: 3, 2: 1}
    assert pauses == ([0.1, 0.4] * 2 if engine == "inprocess" else []), "four times as long each time, for either image"
    row = load_tables(mine.folder).samples.query(f"name == '{cell}' and label == 3 and seed == 0").iloc[0]
    assert row["attempt"] == 3


@pytest.mark.parametrize("engine", ["inprocess", "pool"])
@pytest.mark.parametrize(
    ("options", "most"), [({"fail_fast": True}, 1), ({"max_failures": 12}, 12), ({"max_failures": 0.02}, 3)]
)
def test_a_run_gives_up_where_it_is_told_to(engine: str, options: dict, most: int, plan: MakePlan, run: Run) -> None:
    mine = plan(engine, seeds=range(20), timing=1, **{"workers": 1, **options})
    fake = Fake(troubles={(3, s): Trouble("raise") for s in range(20)})
    code, text = run(mine, fake)
    assert code == 1 and "stopped" in text and "sdvar-exp run study=study" in text
    assert ("… and 2 more failed: sdvar-exp logs --study" in text) == (most == 12) and text.count(", label 3, seed") == min(
        most, 10
    )
    assert len(records(mine, "failure")) == most and len(records(mine, "unit")) < 60 and not records(mine, "timing")


def test_a_run_stops_at_its_quota(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = plan(images="all")
    bounded = replace(mine, settings=replace(mine.settings, quota_gb=1e-6))
    code, text = run(bounded)
    assert code == 1 and "more than quota_gb=1e-06 allows; this goes on: sdvar-exp run study=study" in text
    assert len(records(mine, "unit")) == 1 and not records(mine, "failure")
    monkeypatch.setattr(sweep, "QUOTA_S", 0.0)
    file = mine.folder / "images" / "one.png"
    file.write_bytes(bytes(1000))
    before = sweep.held_bytes(mine.folder)
    os.link(file, file.with_name("same.png"))
    assert sweep.held_bytes(mine.folder) == before > 1000, "a file with two names counts once"
    assert run(replace(mine, settings=replace(mine.settings, quota_gb=1.0)))[0] == 0 and len(records(mine, "unit")) == 24


@pytest.mark.parametrize("engine", ["inprocess", "pool"])
def test_a_hang_is_ended(engine: str, plan: MakePlan, run: Run) -> None:
    mine = plan(engine, unit_timeout_s=0.3, retries=0)
    code, _ = run(mine, Fake(troubles={("sequential", 8, 2): Trouble("hang")}))
    (failure,) = records(mine, "failure")
    assert code == 1 and "UnitTimeout: took longer" in failure["error"] and len(records(mine, "unit")) == 23
    assert "time.sleep(0.05)" in failure["traceback"]


@pytest.mark.parametrize("engine", ["inprocess", "pool"])
def test_out_of_memory_is_named_and_not_tried_again(engine: str, plan: MakePlan, run: Run) -> None:
    mine = plan(engine)
    assert run(mine, Fake(troubles={("sequential", 8, 2): Trouble("oom")}))[0] == 1
    (failure,) = records(mine, "failure")
    assert failure["error"] == "oom: OutOfMemoryError: tried to allocate 20 GiB"


@pytest.mark.parametrize("engine", ["inprocess", "pool"])
@pytest.mark.parametrize("lossless", [True, False])
def test_a_batch_that_does_not_fit_is_cut_only_where_that_changes_nothing(
    engine: str, lossless: bool, plan: MakePlan, run: Run
) -> None:
    from sdvar_exp.cell import Cell
    from sdvar_exp.plan import PlannedCell
    from sdvar_exp.registry import choose

    rule = choose("acceptance", "exact") if lossless else choose("acceptance", "match_rate")
    cell = Cell(
        choose("strategy", "parallel_v1"),
        mask=choose("mask", "block_causal"),
        acceptance=rule,
        gamma=choose("gamma", "fixed", value=2),
        batch=4,
    )
    mine = plan(engine, cells=(PlannedCell(cell, "batch"),), labels=(3,))
    code, _ = run(mine, Fake(largest=1))
    found = len(records(mine, "unit")), len(records(mine, "failure"))
    assert (code, found) == ((0, (4, 0)) if lossless else (1, (0, 4)))
    assert all(f["error"].startswith("oom: ") for f in records(mine, "failure"))


@pytest.mark.parametrize("engine", ["inprocess", "pool"])
def test_a_full_disk_ends_the_run_and_nothing_is_lost(
    engine: str, plan: MakePlan, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = plan(engine, images="all")
    run(plan(engine, images="all", seeds=(0,)))
    for p in mine.cells:
        folder = mine.folder / "images" / p.cell.id
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        folder.write_text("in the way")  # no image can be written, as on a full disk
    with pytest.raises(StorageError, match="cannot write"):
        run(mine)
    assert len(records(mine, "unit")) == 6 and records(mine, "failure") == []
    for p in mine.cells:
        (mine.folder / "images" / p.cell.id).unlink()
    assert run(mine)[0] == 0 and len(records(mine, "unit")) == 24


@every_engine
def test_a_study_at_work_is_not_started_twice(engine: str, plan: MakePlan, run: Run) -> None:
    mine = plan(engine)
    with Study(mine.folder).open(mine, Fake()(mine).fingerprint), pytest.raises(UserError, match="in use by pid"):
        run(mine)
