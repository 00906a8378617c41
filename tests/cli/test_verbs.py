"""status, logs, collect, table, diff and gc on studies that lie on disk."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from sdvar_exp import registry
from sdvar_exp.cli import VERBS
from sdvar_exp.cli.studies import match_cells
from sdvar_exp.metrics import mean_interval
from sdvar_exp.store import Study, load_results
from sdvar_exp.store.lock import StudyLock
from tests.cli.conftest import make_study
from tests.store.making import timing_body, unit_body

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, call: Call) -> None:
    code, out, err = call(verb, "--help")
    assert code == 0 and "usage: " in out and err == ""


def test_the_module_is_the_command(repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "sdvar_exp", "status"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2
    assert done.stderr == "error: results has no study; give --results-dir, or start one with sdvar-exp run\n"


class TestStatus:
    def test_one_study(self, call: Call) -> None:
        make_study(skip=2)
        code, out, _ = call("status")
        lines = out.splitlines()
        assert code == 0 and lines[0].startswith("demo: not running; last record ")
        assert lines[1].startswith("  3 cells: 16 units done, 2 pending, 1 failed")
        assert lines[4].endswith("  4/6, 1 failed  parallel_v1 γ=3") and "sdvar-exp run --failed" in lines[5]

    def test_live_and_stale_locks(self, call: Call) -> None:
        folder = make_study()
        lock = StudyLock(folder / "lock")
        lock.acquire()
        (state,) = json.loads(call("status", "demo", "--json")[1])
        assert state["lock"]["state"] == "live" and state["lock"]["pid"] == os.getpid()
        assert call("status", "demo")[1].startswith(f"demo: running: pid {os.getpid()} on ")
        holder = json.loads((folder / "lock").read_text())
        lock.release()
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        (folder / "lock").write_text(json.dumps({**holder, "pid": gone.pid}))
        assert "not running (stale lock of pid" in call("status", "demo")[1]
        assert json.loads(call("status", "--json")[1])[0]["lock"]["state"] == "stale"

    def test_a_damaged_line_is_told(self, call: Call) -> None:
        folder = make_study()
        (path,) = (folder / "ledger").glob("*.jsonl")
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:3], b"garbage\n", *lines[4:]]))
        (state,) = json.loads(call("status", "--json")[1])
        assert state["pending"] == 1 and len(state["damage"]) == 1 and "line 4" in state["damage"][0]

    def test_a_damaged_study_hides_no_other(self, call: Call, caplog: pytest.LogCaptureFixture) -> None:
        good, bad = make_study("good"), make_study("bad")
        (bad / "manifest.json").write_text("{}")
        code, out, err = call("status")
        assert code == 1 and out.startswith("good: not running")
        assert err.startswith("error: results/bad/manifest.json is not of schema")
        assert call("status", "bad")[0] == 2
        cell = next((good / "cells").glob("*.json"))
        cell.write_text("{")
        assert cell.stem not in call("status", "good")[1] and f"{cell.name} is damaged and its cell left out" in caplog.text


class TestLogs:
    def test_failures_with_their_tracebacks(self, call: Call) -> None:
        make_study(skip=1)
        code, out, _ = call("logs", "parallel_v1")
        assert code == 0 and "failed: label 8, seed 2, attempt 1: ValueError: too bad\n  Traceback:\n    line 1" in out
        assert out.splitlines()[-1].startswith("5 units with a row, the last at 20")
        bodies = [json.loads(line) for line in call("logs", "gamma=fixed", "--json")[1].splitlines()]
        assert [b["type"] for b in bodies] == ["cell", "failure", "summary"] and bodies[1]["done"] is False

    @pytest.mark.parametrize(
        ("argv", "line"),
        [
            (["tset3 entry_num=4"], "results/demo has no cell 'tset3 entry_num=4'; did you mean 'test3 entry_num=4'?"),
            (["sequential", "--study", "dmeo"], "there is no study 'dmeo'; did you mean 'demo'?"),
        ],
    )
    def test_mistakes(self, call: Call, argv: list[str], line: str) -> None:
        make_study()
        assert call("logs", *argv) == (2, "", f"error: {line}\n")

    def test_a_cell_of_two_studies(self, call: Call) -> None:
        make_study("a")
        make_study("b")
        assert call("logs", "sequential") == (2, "", "error: 'sequential' is in a, b; say which with --study\n")
        assert call("logs", "sequential", "--study", "b")[0] == 0


def test_what_a_word_means() -> None:
    cells = {"aaaa11112222": "test3 K=5", "aaaa33334444": "test3 K=5 no_prefix", "bbbb00001111": "parallel_v1 τ=0.7"}
    configs = {
        "aaaa11112222": {"strategy": {"name": "test3", "entry_num": 5}, "batch": 1},
        "bbbb00001111": {"strategy": {"name": "parallel_v1"}, "acceptance": {"name": "x", "tau": 0.7, "repair": False}},
    }
    ids = list(cells)
    for word, found in [
        ("aaaa1", ids[:1]),
        ("aaaa", ids[:2]),
        ("test3 K=5", ids[:1]),
        ("test3", ids[:2]),
        ("*no_prefix", ids[1:2]),
        ("strategy=test3", ids[:1]),
        ("strategy.entry_num=5", ids[:1]),
        ("acceptance.tau=0.70", ids[2:]),
        ("acceptance.repair=false", ids[2:]),
        ("batch=2", []),
        ("aaa", []),
    ]:
        assert match_cells(word, cells, configs) == found, word


class TestTable:
    def test_where_chooses_rows(self, call: Call) -> None:
        make_study()
        rows = json.loads(call("table", "--json", "--where", "strategy == 'parallel_v1' and label == 3")[1])
        assert [(row["name"], row["n"], row["labels"]) for row in rows] == [("parallel_v1 γ=3", 3, 1)]

    def test_a_column_of_the_summary_chooses_cells_and_keeps_their_images(self, call: Call) -> None:
        """Images that agree by chance would show a lossy cell as identical; the number of the table decides for the cell."""
        make_study(moved={1: 2.0, 2: 4.0})
        table = json.loads(call("table", "--json")[1])
        for where in ("pixel_mae < 4", "pixel_mae < 4 & target_calls > 0", "`pixel_mae` < 4 and (n == 6 and compared > 5)"):
            rows = json.loads(call("table", "--json", "--where", where)[1])
            assert rows == table[:2], where
        rows = json.loads(call("table", "--json", "--where", "label == 3 and pixel_mae > 2")[1])
        assert [(r["name"], r["n"]) for r in rows] == [("test3 entry_num=4", 3), ("parallel_v1 γ=3", 3)]
        assert [r["cells"] for r in json.loads(call("table", "--json", "--group", "label", "--where", "n == 6")[1])] == [3, 3]

    def test_images_are_chosen_by_outcome_only_when_told(self, call: Call) -> None:
        make_study()
        code, out, err = call("table", "--json", "--where", "fhat_cosine > 0 or first_divergent_stage == 2")
        assert (code, out) == (2, "") and "first_divergent_stage is measured on each image" in err and "--by-outcome" in err
        code, out, err = call("table", "--json", "--where", "pixel_mae < 0.5 and label == 3", "--by-outcome")
        assert err == "note: chosen by outcome: means are biased (pixel_mae)\n"
        assert code == 0 and all(r["pixel_mae"] < 0.5 and r["n"] <= 3 for r in json.loads(out))
        text = call("table", "--markdown", "--where", "pixel_mae < 0.5", "--by-outcome")[1]
        assert "Chosen by outcome: means are biased" in text
        assert call("table", "--json", "--where", "label == 3", "--by-outcome")[2] == ""

    def test_results_chosen_by_outcome_warn(self, call: Call, caplog: pytest.LogCaptureFixture) -> None:
        folder = make_study()
        load_results(folder, where="label == 3 and strategy == 'test3 entry_num=4'")
        assert not caplog.records
        for where in ("pixel_mae < 0.5", {"target_calls": [2, 3]}):
            caplog.clear()
            load_results(folder, where=where)
            assert "chosen by outcome" in caplog.text

    def test_groups(self, call: Call) -> None:
        make_study()
        rows = json.loads(call("table", "--json", "--group", "label")[1])
        assert [(row["label"], row["cells"], row["units"]) for row in rows] == [(3, 3, 3), (8, 3, 3)]
        code, out, _ = call("table", "--group", "strategy,acceptance_tau")
        assert code == 0 and "parallel_v1" in out and "[" in out
        assert call("table", "--group", "strategy", "--csv")[1].splitlines()[0].startswith("strategy,cells,units,pixel_mae,")

    def test_cells_of_a_group_are_no_more_draws(self, call: Call) -> None:
        """The interval of a group is that of its units' means over the cells: six images, not eighteen rows."""
        folder = make_study()
        (row,) = json.loads(call("table", "--json", "--group", "study")[1])
        units = load_results(folder).groupby(["label", "seed"])["pixel_mae"].mean().reset_index()
        expected = mean_interval(units["pixel_mae"], units["label"])
        assert (row["cells"], row["units"]) == (3, 6)
        assert (row["pixel_mae"], row["pixel_mae_high"]) == pytest.approx((expected.mean, expected.high))

    @pytest.mark.parametrize(
        ("argv", "start"),
        [
            (["--group", "starategy"], "there is no column 'starategy' to group by"),
            (["--where", "label =="], "where: cannot read 'label =='"),
            (["--where", "label > 99"], "--where 'label > 99' chooses no row of results/demo"),
            (["--where", "pixel_mae < 0"], "--where 'pixel_mae < 0' chooses no row of results/demo"),
            (
                ["--where", "label == 3 or pixel_mae < 1"],
                "where: 'label == 3 or pixel_mae < 1' asks rows (label) and cells (pixel",
            ),
            (["--where", "identical == True"], "where: 'identical == True': identical of a cell is a number"),
            (["--where", "psnr_db > 30"], "where: 'psnr_db > 30': psnr_db is measured on each image"),
            (["--stable", "--where", "label > 1"], "--stable gives the whole table"),
        ],
    )
    def test_mistakes(self, call: Call, argv: list[str], start: str) -> None:
        make_study()
        code, out, err = call("table", *argv)
        assert (code, out) == (2, "") and err.startswith(f"error: {start}") and err.count("\n") == 1


class TestDiff:
    def test_equal_studies(self, call: Call) -> None:
        make_study("a")
        make_study("b")
        code, out, _ = call("diff", "a", "b", "--fail-on", "|pixel_mae|>0", "--fail-on", "n<6")
        assert code == 0 and "the same configuration" in out
        assert "B − A over 6 common units (label, seed), averaged over 2 cells first" in out

    def test_a_regression_fails(self, call: Call) -> None:
        """Every image of the two cells that are no baseline moved by 0.3, so by 0.3 on average over 6 images."""
        make_study("a")
        make_study("b", shift=0.3)
        code, out, _ = call("diff", "a", "b", "--json", "--fail-on", "pixel_mae>0.1", "--fail-on", "correlation>0")
        found = json.loads(out)
        assert code == 1 and found["failed"] == ["pixel_mae>0.1: it is 0.3"] and (found["units"], len(found["cells"])) == (6, 2)
        (row,) = [row for row in found["metrics"] if row["metric"] == "pixel_mae"]
        assert row["difference"] == pytest.approx(0.3) and row["b"] - row["a"] == pytest.approx(0.3) and row["n"] == 6
        assert call("diff", "a", "b", "--fail-on", "pixel_mae>0.31")[0] == 0
        assert call("diff", "a", "b", "--fail-on", "pixel_mae.low>0")[0] == 1

    def test_a_regression_of_one_cell_is_not_averaged_away(self, call: Call) -> None:
        make_study("a")
        make_study("b", moved={2: 0.3, 1: -0.3})
        code, out, _ = call("diff", "a", "b", "--fail-on", "|pixel_mae|>0.1")
        assert code == 1 and "FAILED: |pixel_mae|>0.1: it is 0.3 for parallel_v1 γ=3" in out
        assert call("diff", "a", "b", "--fail-on", "|pixel_mae|>0.31")[0] == 0

    def test_cells_that_share_noise_are_no_more_draws(self, call: Call) -> None:
        """The interval of two studies is that of the mean difference by image, and the baseline's zeros are not in it."""
        for name, shift in (("a", 0.0), ("b", 0.1)):
            folder = make_study(name)
            rng = random.Random(3)
            with Study(folder).attach() as study:
                study.append({"type": "session", "cells": []})
            kind = b'"type":"unit"' if damaged == "a unit's checksum" else b'"type":"session"'
            path = next(p for p in (folder / "ledger").glob("*.jsonl") if kind in p.read_bytes())
            lines = path.read_bytes().splitlines(keepends=True)
            at = max(number for number, line in enumerate(lines) if kind in line)
            path.write_bytes(b"".join([*lines[:at], lines[at].replace(b'"type"', b'"tipe"'), *lines[at + 1 :]]))
        code, out, err = call("gc", "--delete")
        assert code == 1 and out.splitlines()[-1] == "removed 1 thing, 0 kB", "temporary files are nobody's"
        assert f"error: images and cells of {folder} stay" in err
        assert sorted(p.name for p in folder.glob("images/*/*")) == ["1_1.png", "3_0.png", "3_7.png", "3_8.png"]

    def test_a_running_study_is_left_alone(self, folder: Path, call: Call) -> None:
        lock = StudyLock(folder / "lock")
        lock.acquire()
        code, _, err = call("gc", "--delete")
        lock.release()
        assert code == 2 and "is in use by pid" in err and (folder / "images/ffff").exists()

    def test_cells_that_never_ran(self, call: Call) -> None:
        """Planned once, without a row, and not in the last command."""
        folder = make_study(skip=6)
        assert call("gc", "--delete", "--dry-run")[0] == 2
        from sdvar_exp.store import Study
        from tests.store.making import make_cells

        cells = [p.cell.id for p in make_cells()]
        Study(folder).attach().append({"type": "session", "cells": cells[:2]})
        (found,) = json.loads(call("gc", "--json")[1])["found"]
        assert Path(found["path"]).name == f"{cells[2]}.json" and "never decoded" in found["why"]

    def test_what_cannot_be_removed_loses_nothing_else(self, call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        listed = [Path(one["path"]) for one in json.loads(call("gc", "--json")[1])["found"]]
        real = Path.unlink

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if path == listed[0]:
                raise PermissionError(13, "Permission denied")
            real(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)
        code, out, err = call("gc", "--delete")
        assert code == 1 and err == f"error: {listed[0]} stays: Permission denied\n" and str(listed[0]) not in out
        assert [path.exists() for path in listed] == [True] + [False] * (len(listed) - 1) and len(listed) > 2


def test_ls_writes_a_yaml_over_the_empty_file_that_the_shell_made(call: Call, tmp_path: Path) -> None:
    (tmp_path / "strategy").mkdir()
    own = tmp_path / "strategy" / "mine.yaml"
    plugin = tmp_path / "empty_yaml_plugin.py"
    plugin.write_text(
        "from dataclasses import dataclass\nfrom sdvar_exp.registry import register\n\n\n"
        "@dataclass(frozen=True)\nclass Mine:\n    entry: int = 3\n\n\n"
        "@register('strategy', 'mine', Mine, reads=())\ndef mine():\n    'Mine.'\n"
    )
    os.chdir(tmp_path)
    own.write_text("")
    code, out, _ = call("ls", "strategy", "mine", "--config-dir", str(tmp_path), "--plugin", "empty_yaml_plugin")
    del registry._entries["strategy", "mine"]
    assert code == 0
    assert out == "# Mine.\ndefaults:\n  - /schema/strategy/mine@_here_\n  - _self_\n\nentry: 3\n"
