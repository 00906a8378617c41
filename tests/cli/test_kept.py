"""Studies that were kept without their ledger: every verb that reads works from the tables, and none destroys them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from sdvar_exp import load_results
from sdvar_exp.store import stable_csv
from tests.cli.conftest import make_study

Call = Callable[..., tuple[int, str, str]]


def without_ledger(folder: Path) -> Path:
    shutil.rmtree(folder / "ledger")
    return folder


@pytest.fixture
def folder(call: Call) -> Path:
    """Two studies with tables, of 17 and 18 units; the first has a failed one."""
    make_study("b", shift=0.3)
    made = make_study("a", skip=1)
    for name in ("a", "b"):
        assert call("collect", name, "--no-figures")[0] == 0
    return made


READERS = (
    ("table", "a", "--json"),
    ("table", "a", "--csv", "--where", "label == 3"),
    ("table", "a", "--stable", "stages"),
    ("table", "a", "--markdown", "--where", "label == 3"),
    ("diff", "a", "b", "--json"),
    ("diff", "a:sequential", "a:test3"),
    ("diff", "a", "b", "--fail-on", "pixel_mae>0.1"),
)


@pytest.mark.parametrize("argv", READERS, ids=" ".join)
def test_what_reads_says_the_same(folder: Path, call: Call, argv: tuple[str, ...]) -> None:
    before = call(*argv)
    without_ledger(folder)
    assert call(*argv) == before and before[1]


def test_results_are_the_same(folder: Path) -> None:
    rows, stable = load_results(folder), [stable_csv(folder, name) for name in ("samples", "stages", "runs")]
    without_ledger(folder)
    pd.testing.assert_frame_equal(load_results(folder), rows)
    assert len(rows) == 17 and len(load_results(folder, where={"label": 3})) == 9
    assert [stable_csv(folder, name) for name in ("samples", "stages", "runs")] == stable


def test_status_and_logs_count_the_rows(folder: Path, call: Call) -> None:
    numbers = ("done", "failed", "pending", "cells")
    (before,) = json.loads(call("status", "a", "--json")[1])
    without_ledger(folder)
    (after,) = json.loads(call("status", "a", "--json")[1])
    assert [after[k] for k in numbers] == [before[k] for k in numbers] and (before["ledger"], after["ledger"]) == (True, False)
    assert call("status", "a")[1].startswith("a: not running; kept without its ledger")
    code, out, _ = call("logs", "parallel_v1", "--study", "a")
    assert code == 0 and "failed: label 8, seed 2, attempt 1: ValueError: too bad\n  Traceback:" in out
    assert out.splitlines()[-1].startswith("5 units with a row, the last at 20") and "kept without its ledger" in out


def test_collect_leaves_the_tables(folder: Path, call: Call) -> None:
    without_ledger(folder)
    before = {path.name: path.read_bytes() for path in (folder / "tables").iterdir()}
    code, out, err = call("collect", "a", "--no-figures")
    assert code == 0 and out.startswith("17 rows of 3 cells from 0 ledger files; 1 units are missing")
    assert err == "note: results/a was kept without its ledger: its tables are left as they are\n"
    assert {path.name: path.read_bytes() for path in (folder / "tables").iterdir()} == before


def test_gc_keeps_its_images(folder: Path, call: Call) -> None:
    cell = next(iter(load_results(folder)["cell"]))
    for name in ("3_0.png", "3_7.png"):
        path = folder / "images" / cell / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (time.time() - 7200,) * 2)
    without_ledger(folder)
    found = json.loads(call("gc", "a", "--json")[1])["found"]
    assert [Path(w["path"]).name for w in found] == ["3_7.png"], "3_0 has a row"


def test_quality_as_it_was_kept(folder: Path, call: Call) -> None:
    without_ledger(folder)
    code, _, err = call("quality", "a")
    assert code == 2 and err.startswith("error: no image of this study has features") and not list(folder.glob("*/quality*"))
    table = pd.DataFrame([{"cell": "c", "n": 3}])
    table.to_parquet(folder / "tables/quality.parquet")
    assert json.loads(call("quality", "a", "--json")[1]) == [{"cell": "c", "n": 3}]
    assert not (folder / "tables/quality.csv").exists()


@pytest.mark.parametrize(
    ("damage", "start"),
    [
        (b"garbage", "results/a/tables/samples.parquet cannot be read"),
        (None, "results/a/tables/samples.parquet has no column 'cell'"),
    ],
)
def test_a_damaged_table_is_told(folder: Path, call: Call, damage: bytes | None, start: str) -> None:
    path = without_ledger(folder) / "tables/samples.parquet"
    if damage is None:
        pd.DataFrame({"x": [1]}).to_parquet(path)
    else:
        path.write_bytes(damage)
    for argv in (("table", "a"), ("status", "a"), ("diff", "a", "b")):
        code, out, err = call(*argv)
        assert (code, out) == (2, "") and err.startswith(f"error: {start}") and err.count("\n") == 1, argv


def test_what_needs_the_ledger_says_so(folder: Path, call: Call) -> None:
    without_ledger(folder)
    code, _, err = call("push", "a")
    assert code == 2 and err.startswith("error: results/a was kept without its ledger, which is what is sent")
    code, out, err = call("plan", "study=a", "strategy=sequential")
    assert code == 0 and "cached 0, pending 12" in out and "note: results/a was kept without its ledger: a run decodes" in err
    assert "ledger" not in call("plan", "study=b", "strategy=sequential")[2]


def test_figures_and_page_for_machines(folder: Path, call: Call) -> None:
    code, out, _ = call("figures", "a", "--only", "gamma-traces", "--only", "time-breakdown", "--json")
    found = json.loads(out)
    assert code == 0 and [f["name"] for f in found["figures"]] == ["gamma-traces"]
    assert list(found["skipped"]) == ["time-breakdown"]
    assert all((Path(found["out"]) / name).is_file() for name in found["figures"][0]["files"])
    code, out, _ = call("figures", "a", "--only", "time-breakdown", "--json")
    assert code == 1 and json.loads(out)["figures"] == []
    assert "images" in json.loads(call("figures", "--list", "--json")[1])
    code, out, _ = call("report", "a", "--json")
    page = json.loads(out)
    assert code == 0 and Path(page["page"]).stat().st_size == page["bytes"]
