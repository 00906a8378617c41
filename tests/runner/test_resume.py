"""Running again continues: after the end, after a kill, with more cells or seeds, from the cache."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan, Timing
from sdvar_exp.store import load_tables, stable_csv
from tests.runner.watching import DRAFT_ONLY, EXACT, Decodes, Killed, MakePlan, Run, break_at, records, throw


def ledger_bytes(plan: Plan) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (plan.folder / "ledger").iterdir()}


def test_the_second_run_does_nothing(plan: MakePlan, run: Run, decodes: Decodes) -> None:
    small = plan(timing=Timing(1, 1))
    run(small)
    before, tables = ledger_bytes(small), stable_csv(small.folder)
    decodes.clear()
    code, text = run(small)
    assert code == 0 and decodes == [] and ledger_bytes(small) == before and stable_csv(small.folder) == tables
    assert "16 done already" in text


@pytest.mark.parametrize("number", [2, 7, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 12))])
def test_a_killed_run_continues_to_the_same_table(
    number: int, plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = plan(folder="whole"), plan(folder="killed")
    run(whole)
    with monkeypatch.context() as patch:
        break_at(patch, number, throw(Killed()))
        with pytest.raises(Killed):
            run(killed)
    assert len(records(killed, "unit")) < 16
    assert run(killed)[0] == 0
    for table in ("samples", "stages"):
        assert stable_csv(killed.folder, table) == stable_csv(whole.folder, table)


def test_only_what_is_left_is_decoded(plan: MakePlan, run: Run, decodes: Decodes) -> None:
    small = plan({"exact": EXACT}, seeds=(0,))
    run(small)
    decodes.clear()
    run(replace(small, seeds=(0, 5)))
    assert Counter(decodes) == {("sequential", (5,), True): 2, ("parallel_v1", (5,), True): 2}


def test_a_later_command_adds_its_cells_and_shows_only_these(plan: MakePlan, run: Run) -> None:
    small = plan({"draft_only": DRAFT_ONLY})
    run(small)
    _, text = run(plan({"exact": EXACT}))
    summary = text[text.index("= 8 images") :]
    assert "exact" in summary and "draft_only" not in summary
    assert list(load_tables(small.folder).runs["name"]) == ["sequential", "draft_only", "exact"]


def test_baselines_are_taken_from_the_cache_and_rows_are_the_same(plan: MakePlan, run: Run, decodes: Decodes) -> None:
    small = plan({"exact": EXACT})
    run(small)
    fresh = stable_csv(small.folder), stable_csv(small.folder, "stages")
    for path in (small.folder / "ledger").iterdir():
        path.unlink()
    decodes.clear()
    code, text = run(small)
    count = len(records(small, "unit"))
    assert code == 0 and f"cache    {count} of {count} images found their baselines in it" in text
    assert "sequential" not in {name for name, _, _ in decodes}
    assert (stable_csv(small.folder), stable_csv(small.folder, "stages")) == fresh
    assert load_tables(small.folder).samples["cache_hit"].all()


def test_a_damaged_cache_is_made_again(plan: MakePlan, run: Run, decodes: Decodes) -> None:
    small = plan({"draft_only": DRAFT_ONLY}, seeds=(0,))
    run(small)
    for path in (small.folder / "cache" / "baseline").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    decodes.clear()
    code, _ = run(replace(small, cells=plan({"exact": EXACT}).cells))
    assert code == 0 and [name for name, _, _ in decodes].count("sequential") == 2
    assert load_tables(small.folder).samples["pixel_mae"].notna().all()


def test_another_fingerprint_is_refused(plan: MakePlan, run: Run) -> None:
    run(plan(seeds=(0,)))
    with pytest.raises(UserError, match="dtype float32 → float64"):
        run(plan(seeds=(0, 1), dtype="float64"))
    assert run(plan(seeds=(0, 1), dtype="float64", allow_mixed=True))[0] == 0
    assert load_tables(plan().folder).samples["mixed"].sum() == 8


SCRIPT = """
import pickle, sys, time
from rich.console import Console
from sdvar_exp.runner import run_study
from sdvar_exp.runner.measuring import units
from tests.runner.conftest import load_tiny
decode = units.decode
units.decode = lambda *a, **k: (time.sleep(0.3), decode(*a, **k))[1]
run_study(pickle.load(sys.stdin.buffer), Console(), load=load_tiny)
"""


@pytest.mark.long
def test_after_sigkill_the_next_run_takes_over(plan: MakePlan, run: Run, repository: Path) -> None:
    whole, killed = plan(folder="whole"), plan(folder="killed")
    run(whole)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(killed))
    process.stdin.close()
    deadline = time.monotonic() + 120
    while len(records(killed, "unit")) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(UserError, match=f"in use by pid {process.pid}"):
        run(killed)
    process.kill()
    process.wait()
    assert 3 <= len(records(killed, "unit")) < 16
    assert run(killed)[0] == 0
    assert stable_csv(killed.folder) == stable_csv(whole.folder)
