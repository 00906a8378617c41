"""What only a pool can do: outlive its workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdvar_exp.engines import pool
from sdvar_exp.engines.pool import default_workers
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan
from sdvar_exp.runner.running.presence import Presence
from sdvar_exp.store import load_tables
from tests.engines.conftest import MakePlan, Run, keys, records, stable
from tests.engines.fake import Fake, Trouble, Unfindable


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("segfault", "killed by SIGSEGV, a segmentation fault"),
        ("kill", "killed by SIGKILL, as the kernel does"),
        pytest.param(
            "deaf",
            "UnitTimeout: took longer than engine.unit_timeout_s allows (0.3 s); its worker was killed",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_lost_worker_costs_its_unit_alone(kind: str, said: str, plan: MakePlan, run: Run) -> None:
    mine = plan("pool", unit_timeout_s=0.3, retries=1)
    code, text = run(mine, Fake(troubles={("sequential", 3, 0): Trouble(kind)}))
    failures = records(mine, "failure")
    assert code == 1 and [f["attempt"] for f in failures] == [1, 2] and said in failures[0]["error"]
    assert "trying again" in text and "1 failed" in text
    assert len(records(mine, "unit")) == 23 == len(set(keys(records(mine, "unit"))))
    if kind != "kill":
        assert "in act" in failures[0]["traceback"], "where it was is in the record"
    samples = load_tables(mine.folder).samples
    assert set(samples["host"]) == {"torch=False"}, "a worker without models imports no torch"


def test_a_worker_lost_once_is_replaced_and_all_units_are_there(plan: MakePlan, run: Run, tmp_path: Path) -> None:
    whole, mine = plan(folder="whole"), plan("pool")
    run(whole)
    (tmp_path / "marks").mkdir()
    fake = Fake(marks=tmp_path / "marks", troubles={("sequential", 3, s): Trouble("kill", 1) for s in (0, 2)})
    assert run(mine, fake)[0] == 0
    assert len(records(mine, "failure")) == 2 and stable(mine) == stable(whole)


def test_a_device_that_can_no_longer_be_used_costs_the_worker(plan: MakePlan, run: Run, tmp_path: Path) -> None:
    mine = plan("pool", workers=1)
    (tmp_path / "marks").mkdir()
    fake = Fake(marks=tmp_path / "marks", troubles={("sequential", 3, 0): Trouble("poisoned", 1)})
    assert run(mine, fake)[0] == 0
    assert len(records(mine, "failure")) == 1 and len(records(mine, "unit")) == 24
    assert len(list((mine.folder / "ledger").iterdir())) == 3, "coordinator, the first worker and another"


def test_models_are_loaded_once_per_worker(plan: MakePlan, run: Run) -> None:
    mine = plan("pool", workers=2)
    run(mine, Fake(delay_s=0.02))
    samples = load_tables(mine.folder).samples
    assert samples["pid"].nunique() == 2 and os.getpid() not in set(samples["pid"])
    assert len(list((mine.folder / "ledger").iterdir())) == 3, "coordinator and two workers"
    assert not (mine.folder / "logs").exists(), "logs that say nothing are not kept"


def test_workers_that_never_get_ready_end_the_run(plan: MakePlan, run: Run) -> None:
    mine = plan("pool")
    with pytest.raises(UserError, match="workers end before they begin: ModuleNotFoundError"):
        run(mine, Unfindable())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_lets_running_units_finish(number: signal.Signals, plan: MakePlan, run: Run) -> None:
    mine = plan("pool", seeds=range(30))
    timer = threading.Thread(target=_when, args=(mine, 4, lambda: os.kill(os.getpid(), number)))
    timer.start()
    code, text = run(mine, Fake(delay_s=0.02))
    timer.join()
    assert code == (143 if number == signal.SIGTERM else 130) and "sdvar-exp run study=study" in text
    assert 4 <= len(records(mine, "unit")) < 180 and not records(mine, "failure") and not (mine.folder / "lock").exists()
    assert run(mine)[0] == 0 and len(set(keys(records(mine, "unit")))) == 180 == len(records(mine, "unit"))


def _when(plan: Plan, count: int, do: object) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (plan.folder / "ledger").is_dir() and len(records(plan, "unit")) >= count:
            break
        time.sleep(0.02)
    assert callable(do)
    do()


def test_default_workers_follow_gpus_and_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert default_workers(["0", "1", "5"], 4) == 3
    assert default_workers([], 1) == cores and default_workers([], 10_000) == 1


def test_presence_sees_other_processes_and_forgets_those_that_are_gone() -> None:
    with Presence("here") as one:
        assert not one.others()
        with Presence("elsewhere") as other:
            assert not other.others() and not one.others()
        with Presence("here") as two:
            assert one.others() and two.others()
        assert not one.others()
        (one.folder / "1-left").write_text("")
        assert not one.others()


def test_no_two_workers_have_one_gpu_and_a_lost_one_gives_its_own_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The lease of a GPU is a worker's number: free again when the worker is gone, also when it ends out of turn."""

    def worker(number: int, log: Path, packed: bytes, environment: dict[str, str]) -> SimpleNamespace:
        return SimpleNamespace(number=number, gpu=environment["CUDA_VISIBLE_DEVICES"], group="at work")

    monkeypatch.setattr(pool, "WorkerProcess", worker)
    monkeypatch.setattr(pool, "pack", lambda assignment: b"")
    sweep: Any = SimpleNamespace(interrupt=SimpleNamespace(asked=False), stopped="")
    work: Any = deque(range(9))
    run = pool.Run(sweep, None, lambda *_: None, ["3", "5", "GPU-7"], 3, work)  # type: ignore[arg-type]
    run.start_until(3, tmp_path)
    assert [w.gpu for w in run.workers] == ["3", "5", "GPU-7"]
    for lost in ("5", "3", "GPU-7", "3"):
        run.workers = [w for w in run.workers if w.gpu != lost]
        run.start_until(3, tmp_path)
        assert sorted(w.gpu for w in run.workers) == ["3", "5", "GPU-7"] and run.workers[-1].gpu == lost
    run.start_until(3, tmp_path)
    assert len(run.workers) == 3, "no more workers than GPUs"
