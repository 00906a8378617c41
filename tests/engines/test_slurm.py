"""What only Slurm does: jobs that start again, nodes that go, commands that leave."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sdvar_exp.engines import squeue
from sdvar_exp.engines.slurm import pairs, shares
from sdvar_exp.engines.squeue import job_name, jobs_at_work, status_lines
from sdvar_exp.errors import UserError
from sdvar_exp.runner.running.work import groups
from sdvar_exp.store import load_tables
from tests.engines import slurm
from tests.engines.conftest import MakePlan, Run, keys, records, stable
from tests.engines.fake import Fake, Trouble
from tests.engines.killing import end, start


def when(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(subprocess.run(["squeue", "--array"], capture_output=True, text=True).stdout)
        time.sleep(0.05)


def units_of(plan: object) -> int:
    """Rows that the ledger has, doubled ones included."""
    folder = getattr(plan, "folder") / "ledger"  # noqa: B009
    return len(records(plan, "unit")) if folder.is_dir() else 0  # type: ignore[arg-type]


def test_work_is_dealt_out_whole(plan: MakePlan) -> None:
    work = groups(plan(), set())
    for count in (1, 3, 8, 50):
        parts = shares(work, count)
        assert len(parts) == min(count, 8) and all(parts)
        assert sorted(g.units for part in parts for g in part) == sorted(g.units for g in work)


def test_options_of_sbatch() -> None:
    assert pairs(("qos=long", "--exclusive", "comment=a=b")) == {"qos": "long", "exclusive": True, "comment": "a=b"}


def test_without_slurm_there_is_one_clear_line(
    plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(UserError, match="there is no squeue on this machine; use engine=pool"):
        run(plan("slurm"))


def test_status_asks_squeue_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurm").mkdir()
    asked = []

    def answer(command: list[str], **more: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[0])
        name = job_name(tmp_path)
        lines = f"7_0|RUNNING|{name}\n7_1|PENDING|{name}\n8_0|PENDING|{name}-timing\n"
        return subprocess.CompletedProcess(command, 0, lines, "")

    monkeypatch.setattr(squeue.shutil, "which", lambda name: name)
    monkeypatch.setattr(squeue.subprocess, "run", answer)
    assert status_lines(tmp_path) == ["slurm 7: 1 running", "slurm 7: 1 pending", "slurm 8 (timing): 1 pending"]
    assert set(asked) == {"squeue"} and status_lines(tmp_path / "none") == []


@pytest.mark.long
@pytest.mark.needs("slurm", "submitit")
def test_a_command_that_detached_is_collected_by_the_next(plan: MakePlan, run: Run, cluster: Path) -> None:
    whole, mine = plan(folder="whole"), plan("slurm", timing=1, detach=True)
    run(whole)
    code, text = run(mine, Fake(delay_s=0.05))
    assert code == 0 and "the jobs go on without this command" in text and units_of(mine) < 24
    assert not (mine.folder / "lock").exists() and status_lines(mine.folder)
    when(lambda: not jobs_at_work(mine.folder))
    assert len(records(mine, "timing")) == 3 * 2, "the times came by themselves, behind the units"
    code, text = run(mine)
    assert code == 0 and "24 done already" in text and stable(mine) == stable(whole)
    assert set(load_tables(mine.folder).samples["host"]) == {"torch=False"}


@pytest.mark.long
@pytest.mark.needs("slurm", "submitit")
def test_a_command_meets_jobs_at_work_and_waits_for_them(plan: MakePlan, run: Run, cluster: Path) -> None:
    mine = plan("slurm", detach=True)
    run(mine, Fake(delay_s=0.1))
    jobs = {job.id.partition("_")[0] for job in jobs_at_work(mine.folder)}
    attached = replace(
        mine, settings=replace(mine.settings, engine_options=replace(mine.settings.engine_options, detach=False))
    )
    code, text = run(attached, Fake(delay_s=0.1))
    assert code == 0 and "submitted" not in text and len(jobs) == 1
    assert len(records(mine, "unit")) == 24 == len(set(keys(records(mine, "unit"))))


@pytest.mark.long
@pytest.mark.needs("slurm", "submitit")
def test_a_lost_worker_costs_its_unit_alone(plan: MakePlan, run: Run, cluster: Path) -> None:
    mine = plan("slurm", retries=0, unit_timeout_s=0.5)
    code, _ = run(mine, Fake(troubles={("sequential", 3, 0): Trouble("segfault"), ("sequential", 8, 1): Trouble("deaf")}))
    assert code == 1 and len(records(mine, "unit")) == 22
    errors = sorted(f["error"].partition(":")[0] for f in records(mine, "failure"))
    assert errors == ["UnitTimeout", "WorkerLost"]


@pytest.mark.long
@pytest.mark.needs("slurm", "submitit")
def test_killed_five_times_at_random_points(plan: MakePlan, run: Run, cluster: Path) -> None:
    """SIGKILL to the coordinator or to the processes of a job, at seeded random points."""
    whole, mine = plan(folder="whole", seeds=range(25)), plan("slurm", seeds=range(25), retries=3)
    run(whole)
    fake, rng = Fake(delay_s=0.15), random.Random(11)
    for kill in range(5):
        process = start(mine, fake)
        before = units_of(mine)
        when(lambda before=before: units_of(mine) > before, 20)
        time.sleep(rng.uniform(0, 0.4))
        victims = job_processes(mine.folder) if kill % 2 else []
        assert victims or kill % 2 == 0
        for pid in victims[:1]:
            os.kill(pid, signal.SIGKILL)
        end(process)
    assert len(set(keys(records(mine, "unit")))) < 150, "kills came in mid-sweep"
    assert run(mine, fake)[0] == 0
    assert set(keys(records(mine, "unit"))) == set(keys(records(whole, "unit"))) and stable(mine) == stable(whole)
    assert len(records(mine, "unit")) == 150 and load_tables(mine.folder).notes == ()


def job_processes(folder: Path) -> list[int]:
    """Processes of this machine that run a submitit job of the study."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"submitit.core._submit" in words and str(folder / "slurm").encode() in words and b"srun" not in words[0]:
            found.append(int(path.parent.name))
    return sorted(found)


@pytest.mark.long
@pytest.mark.needs("slurm", "submitit")
def test_a_node_lost_and_a_job_preempted_in_mid_sweep(plan: MakePlan, run: Run, cluster: Path) -> None:
    """Both jobs start again, after about two minutes; an orphan may write units that its twin writes too."""
    whole, mine = plan(folder="whole", seeds=range(40)), plan("slurm", seeds=range(40), detach=True, cpus=2)
    run(whole)
    run(mine, Fake(delay_s=0.08))
    when(lambda: len([j for j in jobs_at_work(mine.folder) if j.state == "RUNNING"]) == 2 and units_of(mine) > 8)
    on_n1 = slurm.slurm(cluster, "squeue", "--noheader", "--array", "--nodelist=n1", "--format=%i").split()
    slurm.slurm(cluster, "scontrol", "update", "nodename=n2", "state=down", "reason=test")
    try:
        slurm.slurm(cluster, "scontrol", "requeue", *on_n1)
        assert units_of(mine) < 240 and len(on_n1) == 1
        when(lambda: not jobs_at_work(mine.folder), 400)
        units = records(mine, "unit")
        assert len(set(keys(units))) == 240 and stable(mine) == stable(whole)
        assert load_tables(mine.folder).notes == (), "twins that agree are no news"
        assert run(mine)[0] == 0
    finally:
        slurm.slurm(cluster, "scontrol", "update", "nodename=n2", "state=resume", check=False)


def test_the_modules_that_jobs_begin_with_import_no_torch() -> None:
    code = "import sys; import sdvar_exp.engines.slurm, sdvar_exp.engines.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
