"""Killed at random points and continued: the same tables byte for byte, no unit lost or doubled."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdvar_exp.errors import UserError
from sdvar_exp.plan import EngineOptions, Plan
from sdvar_exp.store import StorageError, load_tables, stable_csv
from tests.engines.conftest import MakePlan, Run, keys, records, stable
from tests.engines.fake import Fake
from tests.engines.killing import end, kill_at_random, start

KILLS = 10


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("engine", ["inprocess", "pool"])
def test_ten_kills_at_random_points_leave_no_trace(engine: str, seed: int, plan: MakePlan, run: Run) -> None:
    """Three seeds × ten kills on each engine; in the pool half of them hit a worker."""
    whole, mine = (
        plan(e, folder=f, seeds=range(100), images="all", retries=3) for e, f in (("inprocess", "whole"), (engine, "killed"))
    )
    run(whole)
    fake, rng = Fake(delay_s=0.004), random.Random(f"{engine} {seed}")
    assert kill_at_random(mine, fake, rng, KILLS, workers_too=engine == "pool") == KILLS
    units = records(mine, "unit")
    assert len(units) < 600 and len(set(keys(units))) == len(units)
    assert run(mine, fake)[0] == 0
    units = records(mine, "unit")
    assert sorted(keys(units)) == sorted(set(keys(units))) == sorted(keys(records(whole, "unit")))
    assert stable(mine) == stable(whole)
    if engine == "pool":
        assert set(load_tables(mine.folder).samples["host"]) == {"torch=False"}


@pytest.mark.long
@pytest.mark.needs("weights")
def test_the_embedded_pair_killed_three_times(tmp_path: Path, run_real: Any) -> None:
    """In-process, then in the pool, then in-process again: one ledger, the uninterrupted tables."""
    whole, mine = run_real.plan("whole"), run_real.plan("killed")
    assert run_real(whole) == 0
    from sdvar_exp.runner.measuring.backend import Models

    rng = random.Random(7)
    for engine in ("inprocess", "pool", "inprocess"):
        settings = replace(mine.settings, engine=engine, engine_options=EngineOptions(workers=1))
        process = start(replace(mine, settings=settings), Models())
        before, deadline = len(records(mine, "unit")), time.monotonic() + 120
        while len(records(mine, "unit")) <= before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        end(process)
    done = len(records(mine, "unit"))
    assert 3 <= done < len(records(whole, "unit"))
    assert run_real(mine) == 0
    units = records(mine, "unit")
    assert len(units) == len(set(keys(units))) == len(records(whole, "unit"))
    for table in ("samples", "stages", "runs"):
        assert stable_csv(mine.folder, table) == stable_csv(whole.folder, table)


@pytest.fixture
def run_real(tmp_path: Path) -> Any:
    """run_real(plan): a run of the embedded pair without figures; run_real.plan(folder)."""
    import io

    from rich.console import Console

    from sdvar_exp.config import compose
    from sdvar_exp.runner import run_study

    def go(plan: Plan) -> int:
        return run_study(plan, Console(file=io.StringIO()))

    def make(folder: str) -> Plan:
        made = compose(
            [
                "strategy=sequential,draft_only,parallel_v1",
                "labels=[0,3]",
                "seeds=6",
                "timing.units=0",
                "threads=1",
                "device=cpu",
                "tracking=none",
                "images=none",
                "study=kills",
                f"results_dir={tmp_path / folder}",
            ]
        )
        return made

    go.plan = make  # type: ignore[attr-defined]
    return go


@pytest.mark.parametrize("engine", ["inprocess", pytest.param("pool", marks=pytest.mark.long)])
def test_two_starts_at_once_one_runs_and_the_other_says_who(engine: str, plan: MakePlan, run: Run) -> None:
    mine = plan(engine, seeds=range(60))
    process = start(mine, Fake(delay_s=0.01))
    try:
        with pytest.raises(UserError, match=f"in use by pid {process.pid}"):
            run(mine)
        assert records(mine, "failure") == []
    finally:
        end(process)
    assert run(mine)[0] == 0 and len(set(keys(records(mine, "unit")))) == 360 == len(records(mine, "unit"))


@pytest.mark.parametrize("engine", ["inprocess", pytest.param("pool", marks=pytest.mark.long)])
def test_a_torn_line_and_a_wrong_checksum_cost_their_units_alone(engine: str, plan: MakePlan, run: Run) -> None:
    whole, mine = plan(folder="whole"), plan(engine)
    run(whole)
    run(mine)
    path = max((mine.folder / "ledger").iterdir(), key=lambda p: p.stat().st_size)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[-2] = lines[-2].replace(b'"seed":', b'"sead":')
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    lost = 24 - len(records(mine, "unit"))
    assert lost == 2
    assert run(mine)[0] == 0 and len(records(mine, "unit")) == 24 and stable(mine) == stable(whole)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["inprocess", "pool"])
def test_a_clock_that_jumps_changes_nothing(engine: str, plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour back, a year on: files are ordered by their number, durations taken from a clock that cannot be set."""
    whole, mine = plan(folder="whole", timing=1), plan(engine, timing=1, unit_timeout_s=5)
    run(whole)
    real = time.time
    for shift, seeds in ((0, (0,)), (-3600, (0, 1)), (31_536_000, (0, 1, 2, 3))):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda by=shift: real() + by)
            patch.setattr(time, "gmtime", lambda s=None, by=shift, old=time.gmtime: old((real() if s is None else s) + by))
            assert run(replace(mine, seeds=seeds))[0] == 0
    for path in (mine.folder / "ledger").iterdir():
        os.utime(path, (1e9, 1e9))
    assert run(mine)[0] == 0 and stable(mine) == stable(whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 kB; skips where this process may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk, and not everywhere")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("engine", ["inprocess", pytest.param("pool", marks=pytest.mark.long)])
def test_a_disk_that_is_full_in_mid_run(engine: str, plan: MakePlan, run: Run, small_disk: Path) -> None:
    whole = plan(folder="whole", seeds=range(60))
    mine = replace(plan(engine, seeds=range(60)), results_dir=small_disk)
    run(whole)
    with pytest.raises(StorageError, match=r"No space left on device.*run"):
        run(mine)
    kept = len(records(mine, "unit"))
    assert 0 < kept < 360 and records(mine, "failure") == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert run(mine)[0] == 0 and len(records(mine, "unit")) == 360 and stable(mine) == stable(whole)


def test_a_folder_that_cannot_be_written_is_said_so_before_anything_runs(
    plan: MakePlan, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="choose another results_dir"):
        run(plan("pool"))
    assert (tmp_path / "results").is_file()
