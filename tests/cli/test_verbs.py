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
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from sdvar_exp import registry
from sdvar_exp.cli import VERBS
from sdvar_exp.cli.studies import match_cells
from sdvar_exp.metrics import mean_interval
from sdvar_exp.report.figures import Written
from sdvar_exp.store import Study, load_results
from sdvar_exp.store.lock import StudyLock
from tests.cli.conftest import make_study
from tests.store.making import make_cells, timing_body, unit_body

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, call: Call) -> None:
    code, out, err = call(verb, "--help")
    assert code == 0 and "usage: " in out and err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_needs_a_value_that_says_something(verb: str, call: Call) -> None:
    """`--extractor ""` is what a shell makes of a variable that is not set; it is refused, by every option of every verb."""
    for action in import_module(f"sdvar_exp.cli.{verb}").parser()._actions:
        if not action.option_strings or action.nargs is not None:
            continue
        for words in ((action.option_strings[0], ""), (f"{action.option_strings[-1]}=",)):
            code, out, err = call(verb, *words)
            assert (code, out) == (2, "") and err.count("\n") == 1, (words, err)
            assert err.startswith("error: ") and " needs a" in err, (words, err)


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
        assert lines[4].endswith("  4/6, 1 failed  parallel_v1 γ=3") and "sdvar-exp run --failed" in lines[9]
        assert lines[5].startswith("  failed: ") and lines[5].endswith("label 8, seed 1: ValueError: too bad")
        assert lines[6:9] == ["    Traceback:", "      line 1", "    ValueError: too bad"]
        (failure,) = json.loads(call("status", "--json")[1])[0]["failures"]
        assert failure["traceback"].startswith("Traceback") and failure["label"] == 8

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
        for words in (["--study", "demo"], ["--study", "results/demo"], ["demo"], []):  # as the end of a run and the README say
            code, out, _ = call("logs", *words)
            first, *rest = out.splitlines()
            assert code == 0 and first == "results/demo: 3 cells" and "failure" in rest[-1]
            assert any(line.startswith("failed: ") and "parallel_v1" in line and "label 8, seed 2" in line for line in rest)

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
    def test_sorted_by_a_column(self, call: Call) -> None:
        make_study(moved={1: 2.0, 2: 4.0})
        rows = [
            [r["pixel_mae"] for r in json.loads(call("table", "--json", f"--sort={c}")[1])] for c in ("pixel_mae", "-pixel_mae")
        ]
        assert rows[0] == sorted(rows[0]) == rows[1][::-1] and len(set(rows[0])) == 3
        assert call("table", "--csv", "--sort", "-pixel_mae") == call("table", "--csv", "--sort=-pixel_mae")
        for column, rest in (("pixels", "did you mean 'pixel_mae'?"), ("zzz", "columns are cell, name")):
            code, _, err = call("table", "--sort", column)
            assert code == 2 and f"there is no column {column!r} to sort by; {rest}" in err

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
        err = call("table", "--group", "label")[2]
        assert err.startswith("note: the reference is averaged in, whose differences are 0 by construction; without it: ")
        alone = ("table", "--group", "label", "--where", err.split('"')[1], "--json")
        assert [row["cells"] for row in json.loads(call(*alone)[1])] == [2, 2] and call(*alone)[2] == ""
        assert call("table", "--group", "strategy")[2] == ""
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
            (["--group", "starategy"], "there is no column 'starategy' to group by; did you mean 'strategy'?"),
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
            (["--sort=--"], "--sort needs a value, got '--'"),
            (["--group", ","], "--group names no column; write e.g. --group strategy,label"),
            (["--where", "1"], "where: cannot read '1': it is no condition"),
        ],
    )
    def test_mistakes(self, call: Call, argv: list[str], start: str) -> None:
        make_study()
        code, out, err = call("table", *argv)
        assert (code, out) == (2, "") and err.startswith(f"error: {start}") and err.count("\n") == 1


def test_power_says_where_the_spread_is_hardly_known(call: Call) -> None:
    """Two labels × two seeds leave two degrees of freedom, × three seeds four."""
    asked = ("--metric", "pixel_mae", "--effect", "0.1")
    make_study("few", seeds=(0, 1))
    code, out, _ = call("power", "few", *asked)
    assert code == 0 and "parallel_v1 γ=3 *" in out and "\n*: under 3 degrees of freedom (images less labels)" in out
    make_study("more")
    assert "*" not in call("power", "more", *asked)[1]
    for words, said in (
        (("--identical", "1e-320"), "--identical must lie in [1e-09, 1), got"),
        (("more", *asked, "--labels", "9" * 20), "labels must lie in 1 … 1000000, got"),
    ):
        code, out, err = call("power", *words)
        assert (code, out) == (2, "") and err.startswith(f"error: {said}") and err.count("\n") == 1
    assert call("diff", "more", "more", "--fail-on", "pixel_mae>1e999")[2].startswith(
        "error: --fail-on 'pixel_mae>1e999' cannot"
    )
    (Path("file")).write_text("")
    code, out, err = call("figures", "more", "--out", "file/figures")
    assert (code, out) == (1, "") and err == "error: Not a directory: file/figures\n"


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
                study.append(
                    *(unit_body(c, 3, s, pixel_mae=rng.random() + shift * s) for c in study.cells() for s in (7, 8, 9))
                )
        (row,) = [r for r in json.loads(call("diff", "a", "b", "--json")[1])["metrics"] if r["metric"] == "pixel_mae"]
        differences = [0.0] * 6 + [0.7, 0.8, 0.9]
        expected = mean_interval(differences, [3] * 3 + [8] * 3 + [3] * 3)
        assert row["n"] == 9 and (row["difference"], row["low"]) == pytest.approx((expected.mean, expected.low))

    def test_studies_without_a_common_unit(self, call: Call) -> None:
        make_study("a")
        make_study("b", seeds=(7, 8))
        code, out, err = call("diff", "a", "b", "--fail-on", "pixel_mae>9")
        assert (code, out) == (2, "") and err.startswith("error: results/a and results/b have no common unit (label, seed)")

    def test_a_cell_that_failed_altogether_does_not_pass_the_gate(self, call: Call) -> None:
        make_study("a")
        make_study("b", skip=6)
        code, out, _ = call("diff", "a", "b", "--fail-on", "|pixel_mae|>9")
        assert code == 1 and "pixel_mae of parallel_v1 γ=3 has no value on both sides" in out

    def test_speedups_are_ratios(self, call: Call) -> None:
        """1.2 and 1.6 against 0.9 and 1.2: the geometric means of the table, and B ÷ A 0.75 without a width."""
        for name, faster in (("a", 1.0), ("b", 0.75)):
            folder = make_study(name)
            with Study(folder).attach() as study:
                cell = list(study.cells())[2]
                times = [(3, 0, 1.2), (3, 1, 1.2), (3, 2, 1.6), (8, 0, 1.6)]
                study.append(*(timing_body(cell, label, seed, 0, 10 * s * faster, 10) for label, seed, s in times))
        (row,) = [r for r in json.loads(call("diff", "a", "b", "--json")[1])["metrics"] if r["metric"] == "speedup"]
        table = [r for r in json.loads(call("table", "a", "--json")[1]) if r["timed"]]
        assert row["a"] == pytest.approx(table[0]["speedup"]) == pytest.approx((1.2 * 1.6) ** 0.5)
        assert (row["difference"], row["low"], row["high"]) == pytest.approx((0.75, 0.75, 0.75))
        assert call("diff", "a", "b", "--fail-on", "speedup<0.8")[0] == 1
        assert call("diff", "a", "b", "--fail-on", "speedup<0.7")[0] == 0
        for never in ("speedup<-0.05", "|speedup|>0.05"):
            assert "is the ratio B ÷ A, 1 for no change" in call("diff", "a", "b", "--fail-on", never)[1]

    def test_other_code_is_a_difference(self, call: Call) -> None:
        make_study("a")
        make_study("b", code="beef")
        assert "code: c0de → beef" in call("diff", "a", "b")[1]

    def test_two_cells_of_a_study(self, call: Call) -> None:
        make_study()
        code, out, _ = call("diff", "--study", "demo", "parallel_v1", "test3")
        assert (
            code == 0
            and "strategy.name: parallel_v1 → test3" in out
            and "acceptance: match_rate(tau=0.7, " in out
            and " → none" in out
        )
        assert call("diff", "demo:parallel_v1", "demo:test3")[1] == out

    def test_a_gate_does_not_pass_for_want_of_data(self, call: Call) -> None:
        make_study("a")
        make_study("b")
        code, out, _ = call("diff", "a", "b", "--fail-on", "speedup<0")
        assert code == 1 and "FAILED: speedup<0: speedup has no value on both sides" in out

    @pytest.mark.parametrize(
        ("argv", "start"),
        [
            (["a", "b", "--fail-on", "pixel_mea>1"], "--fail-on 'pixel_mea>1': there is no metric 'pixel_mea'"),
            (["a", "b", "--fail-on", "pixel_mae"], "--fail-on 'pixel_mae' cannot be read"),
            (["a", "b", "--fail-on", "|pixel_mae>1"], "--fail-on '|pixel_mae>1' cannot be read"),
            (["a", "b:sequential"], "compare two studies or two cells"),
            (["a", "c"], "there is no study 'c'"),
        ],
    )
    def test_mistakes(self, call: Call, argv: list[str], start: str) -> None:
        make_study("a")
        make_study("b")
        code, out, err = call("diff", *argv)
        assert (code, out) == (2, "") and err.startswith(f"error: {start}")


def test_table_of_a_study_that_was_kept_without_its_ledger(call: Call) -> None:
    folder = make_study()
    call("collect", "--no-figures")
    before = call("table", "--csv")[1]
    shutil.rmtree(folder / "ledger")
    assert call("table", "--csv") == (0, before, "")
    assert json.loads(call("table", "--json", "--group", "strategy")[1])


def test_collect_makes_the_tables_again(call: Call) -> None:
    folder = make_study(skip=1)
    code, out, _ = call("collect", "--no-figures")
    assert code == 0 and out.startswith("17 rows of 3 cells from 1 ledger file; 1 units are missing\n")
    assert len(pd.read_parquet(folder / "tables/samples.parquet")) == 17
    found = json.loads(call("collect", "--no-figures", "--json")[1])
    assert (found["samples"], found["missing"], found["failures"]) == (17, 1, 1)


def test_collect_draws_the_figures_though_the_tables_for_a_paper_fail(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study()

    def broken(*_: object) -> None:
        raise ValueError("no LaTeX today")

    monkeypatch.setattr("sdvar_exp.report.typeset.write_typeset", broken)
    drawn = Written([Path("a.pdf")], {"tradeoff": "ValueError: no axis"})
    monkeypatch.setattr("sdvar_exp.runner.running.finish.write_figures", lambda *_, **__: drawn)
    code, out, err = call("collect")
    assert code == 1 and "figures  " in out
    faults = ["no tables for a paper: ValueError: no LaTeX today", "figure tradeoff: ValueError: no axis"]
    assert err.splitlines() == [f"error: {line}" for line in faults]
    assert json.loads(call("collect", "--json")[1])["failed"] == faults


class TestGc:
    @pytest.fixture
    def folder(self) -> Path:
        """A study with a temporary file, an image without a row, one with, images of no cell, and a fresh image."""
        folder = make_study()
        cell = json.loads(next((folder / "cells").glob("*.json")).read_text())["id"]
        for name in (
            f"images/{cell}/3_0.png",
            f"images/{cell}/3_7.png",
            f"images/{cell}/.3_7.png.1.0.tmp",
            "images/ffff/1_1.png",
        ):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 10)
            os.utime(path, (time.time() - 7200,) * 2)
        (folder / f"images/{cell}/3_8.png").write_bytes(b"being written")
        return folder

    def test_lists_and_removes_only_when_told(self, folder: Path, call: Call) -> None:
        found = json.loads(call("gc", "--json")[1])["found"]
        assert sorted(Path(w["path"]).name for w in found) == [".3_7.png.1.0.tmp", "3_7.png", "ffff"]
        assert all(Path(w["path"]).exists() for w in found), "a listing removes nothing"
        before = call("table", "--stable")[1]
        code, out, _ = call("gc", "--delete")
        assert code == 0 and out.splitlines()[-1] == "removed 3 things, 0 kB"
        assert not any(Path(w["path"]).exists() for w in found) and call("table", "--stable")[1] == before
        assert sorted(p.name for p in folder.glob("images/*/*")) == ["3_0.png", "3_8.png"]
        assert call("gc")[1] == "0 things, 0 kB to remove\n"

    @pytest.mark.parametrize("damaged", ["a unit's checksum", "the last session's checksum", "a cell's file"])
    def test_images_and_cells_that_may_belong_to_a_damaged_record_stay(self, folder: Path, call: Call, damaged: str) -> None:
        if damaged == "a cell's file":
            path = next((folder / "cells").glob("*.json"))
            path.write_text(json.dumps({**json.loads(path.read_text()), "order": "first"}))
        else:
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


def test_earlier_versions_of_a_cell_are_hidden_until_asked_for_and_gc_removes_them(call: Call) -> None:
    """The entry of the last cell was changed: the cell of its file of today stands last in the plan, with the same name."""
    folder = make_study()
    *_, old = (p.cell.id for p in make_cells())
    path, now = folder / "cells" / f"{old}.json", "abcdef012345"
    about = json.loads(path.read_text())
    for cell, source, order in ((old, "0" * 16, 2), (now, "1" * 16, 3)):
        config = {**about["config"], "acceptance": {**about["config"]["acceptance"], "source": source}}
        path.with_name(f"{cell}.json").write_text(json.dumps({**about, "id": cell, "config": config, "order": order}))
    with Study(folder).attach() as study:
        study.append(*(unit_body(now, label, seed) for label in (3, 8) for seed in range(3)))
        study.append({"type": "session", "cells": [now]})

    def rows(*more: str) -> list[str]:
        return [row["cell"] for row in json.loads(call("table", "--json", *more)[1])]

    assert now in rows() and old not in rows() and {old, now} <= set(rows("--superseded"))
    code, out, err = call("table")
    assert code == 0 and out.count("parallel_v1 γ=3") == 1
    assert err == (
        "note: left out, as the code of their entries was changed since: 1 cell (parallel_v1 γ=3); "
        "table --superseded shows them, gc --delete removes them\n"
    )
    assert f"parallel_v1 γ=3 #{old[:4]}" in (out := call("table", "--superseded")[1]) and f"γ=3 #{now[:4]}" in out
    found = json.loads(call("gc", "--json")[1])["found"]
    assert [Path(one["path"]).name for one in found] == [f"{old}.json"] and "with 6 rows" in found[0]["why"]
    stable = [line for line in call("table", "--stable")[1].splitlines() if old not in line]
    assert call("gc", "--delete")[0] == 0 and call("gc")[1] == "0 things, 0 kB to remove\n"
    assert old not in rows("--superseded") and call("table", "--stable")[1].splitlines() == stable
    assert call("table")[2] == "", "nothing is damaged"
    with Study(folder).attach() as study:  # the entry's file of before is back, and run again
        study.append(*(unit_body(old, label, 0) for label in (3, 8)), {"type": "session", "cells": [old]})
    path.write_text(json.dumps({**about, "config": {**config, "acceptance": {**config["acceptance"], "source": "0" * 16}}}))
    assert old in rows() and now not in rows()


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
