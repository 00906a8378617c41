"""The console command: exit codes, what it prints, what it imports, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sdvar_exp.cli import VERBS, main
from sdvar_exp.cli.run import check_writable
from sdvar_exp.config import folder
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan


def shell(code: str, repository: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Plans that reach the runner, which does nothing else."""
    seen: list[Plan] = []
    fake: Any = ModuleType("sdvar_exp.runner")

    def run_study(plan: Plan, console: object) -> int:
        seen.append(plan)
        return 1 if plan.study == "failing" else 0

    fake.run_study = run_study
    monkeypatch.setitem(sys.modules, "sdvar_exp.runner", fake)
    return seen


@pytest.mark.parametrize("verb", ["plan", "ls"])
def test_planning_imports_no_torch(verb: str, repository: Path) -> None:
    code = (
        "import sys\nfrom sdvar_exp.cli import main\ncode = main(sys.argv[1:])\n"
        "bad = sorted(m for m in ('torch', 'pandas', 'matplotlib', 'wandb') if m in sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else code)"
    )
    argv = ["plan", "experiment=demo"] if verb == "plan" else ["ls"]
    done = shell(code, repository, *argv)
    assert done.returncode == 0, done.stderr
    assert list(Path().iterdir()) == []


def test_script_refuses_in_one_line_and_leaves_nothing(repository: Path) -> None:
    """The whole way of a user: a process, exit 2, one line, no traceback, an empty folder."""
    script = [sys.executable, str(repository / "scripts/run.py"), "-m", "strategy=sequential,tset3", "labels=[0,3,8]"]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown strategy 'tset3'; did you mean 'test3'?\n"
    assert list(Path().iterdir()) == []


def test_run_hands_the_plan_to_the_runner(runner: list[Plan], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-m", "strategy=sequential,test3", "mask=block_causal,block_diagonal", "labels=0,3"]) == 0
    assert main(["run", "study=failing"]) == 1
    assert [len(plan.cells) for plan in runner] == [3, 1] and runner[0].labels == (0, 3)
    assert runner[0].argv[0] == "-m"
    out = capsys.readouterr()
    assert out.err == "note: 4 combinations give 3 cells, 1 duplicate collapsed: sequential reads no mask\n"
    assert list(Path().iterdir()) == []


def test_nothing_runs_after_a_mistake(runner: list[Plan], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "strategy=sequential", "labels=99", "seeds=x"]) == 2
    assert capsys.readouterr().err == (
        "error: label 99 is out of range: embedded has the classes 0 … 9\n"
        "error: seeds must be a number n (seeds 0 … n-1) or a list of integers ≥ 0, or until, got 'x'\n"
    )
    assert not runner and list(Path().iterdir()) == []


def test_cuda_where_there_is_none(
    runner: list[Plan], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["run", "device=cuda"]) == 2
    assert capsys.readouterr().err == ("error: device=cuda: PyTorch sees no CUDA GPU here; use device=cpu or device=auto\n")
    assert not runner


def test_results_folder_that_cannot_be_written(runner: list[Plan], capsys: pytest.CaptureFixture[str]) -> None:
    Path("results").write_text("a file")
    assert main(["run", "strategy=sequential"]) == 2
    assert capsys.readouterr().err == (
        "error: results folder results/default: results is not a folder; choose another results_dir\n"
    )
    assert not runner


def test_unwritable_folder_is_seen_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    check_writable(tmp_path / "a/b")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match="cannot be written: Permission denied; choose another results_dir"):
        check_writable(tmp_path / "a/b")


def test_plan_prints_cells_units_and_duplicates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "strategy=draft_only,test3", "mask=block_causal,no_prefix", "seeds=4", "labels=[0,3]"]) == 0
    out = capsys.readouterr()
    assert [line.split("  ")[1] for line in out.out.splitlines()[:3]] == [
        "draft_only",
        "test3 K=5 block_causal",
        "test3 K=5 no_prefix",
    ]
    assert out.out.splitlines()[3:] == [
        "",
        "3 cells + 1 baseline to compare with × 2 labels × 4 seeds = 32 units",
        "labels 0, 3; seeds 0 … 3; results go to results/default",
        "design: product over strategy (2), mask (2)",
        "cached 0, pending 32; 96 timings to measure",
        "time: unknown, nothing was measured yet with these models, device and dtype",
        out.out.splitlines()[-1],
    ]
    assert out.out.splitlines()[-1].startswith("disk: 60 images to write; ")
    assert out.err == "note: 4 combinations give 3 cells, 1 duplicate collapsed: draft_only reads no mask\n"


def test_plan_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--json", "strategy=sequential", "labels=[1]", "seeds=2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["units"] == 2 and plan["baselines_added"] == 0 and plan["seeds"] == [0, 1]
    assert plan["cells"][0]["name"] == "sequential" and len(plan["cells"][0]["id"]) == 12


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean 'run'?"),
        (["strategy=test3"], "unknown command 'strategy=test3'; did you mean 'sdvar-exp run strategy=test3 …'?"),
        (["xyzzy"], f"unknown command 'xyzzy'; commands are {', '.join(VERBS)}"),
        (["plan", "--foo=1"], "unknown option --foo=1"),
        (["run", "--cfg", "jop"], "argument --cfg/-c: invalid choice: 'jop' (choose from 'job', 'hydra', 'all')"),
        (["run", "--cfg", "job", "labls=3"], "unknown key 'labls'; did you mean 'labels'?"),
        (["run", "--cfg", "job", "labels=0,3"], "--cfg and --info show one job; give one value instead of labels=0,3"),
        (["run", "--resolve"], "--resolve and --package go with --cfg"),
        (["ls", "masl"], "unknown group 'masl'; did you mean 'mask'?"),
        (["ls", "gamma", "amid"], "unknown gamma 'amid'; did you mean 'aimd'?"),
        (["ls", "--foo"], "unrecognized arguments: --foo; see sdvar-exp ls --help"),
    ],
)
def test_usage_mistakes(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out = capsys.readouterr()
    assert out.out == "" and out.err.split("; did you mean '--info")[0].rstrip("\n") == f"error: {line}"


def test_hydra_shows_the_configuration(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--cfg", "job", "strategy=test3", "strategy.entry_num=3"]) == 0
    assert "strategy:\n  name: test3\n  entry_num: 3\n" in capfd.readouterr().out
    assert main(["run", "--info", "defaults", "experiment=guide"]) == 0
    assert "experiment/guide" in capfd.readouterr().out
    assert main(["plan", "labls=0"]) == 2
    assert capfd.readouterr() == ("", "error: unknown key 'labls'; did you mean 'labels'?\n"), "Hydra's log is not left on"
    assert list(Path().iterdir()) == []


def test_help_names_groups_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("run", "plan"):
        assert main([verb, "strategy=test3", "--help"]) == 0
        out = capsys.readouterr().out
        assert " ".join(folder.names("strategy")) in out
        assert "seeds=4" in out and "n means 0 … n-1; a list means these" in out
    assert main(["--help"]) == 0 and "commands:" in capsys.readouterr().out
    assert main([]) == 2


def test_listing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "masks"]) == 0
    out = capsys.readouterr().out
    assert "  block_causal                    s(j) ≤ s(i): what VAR is trained with (arXiv 2404.02905). (sd_mask=3)\n" in out
    assert main(["ls", "--json"]) == 0
    listed = {(o["group"], o["name"]): o for o in json.loads(capsys.readouterr().out)}
    assert listed["strategy", "test3"]["parameters"] == {"entry_num": 5}
    assert listed["mask", "no_prefix"]["code"] == 0 and ("experiment", "guide") in listed
    assert all(option["doc"] for option in listed.values())
    assert main(["ls", "gamma", "aimd"]) == 0
    assert "smallest: 1" in capsys.readouterr().out


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sdvar_exp.config.compose", stop)
    assert main(["plan"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


class TestTable:
    """`table` finds the study and shows what the report makes of it."""

    @pytest.fixture
    def studies(self) -> None:
        for name in ("guide", "demo"):
            Path("results", name).mkdir(parents=True)
            Path("results", name, "manifest.json").write_text("{}")

    @pytest.mark.parametrize(
        ("argv", "line"),
        [
            ([], "which study? results has demo, guide"),
            (["gide"], "there is no study 'gide'; did you mean 'guide'?"),
            (["xyzzy"], "there is no study 'xyzzy'; results has demo, guide"),
            (["--results-dir", "elsewhere"], "which study? elsewhere has none; give its folder, or --results-dir"),
        ],
    )
    def test_study_not_found(self, argv: list[str], line: str, studies: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["table", *argv]) == 2
        assert capsys.readouterr().err == f"error: {line}\n"

    def test_stable_table(self, studies: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        import sdvar_exp.store

        monkeypatch.setattr(sdvar_exp.store, "stable_csv", lambda folder, table: f"{folder} {table}\n", raising=False)
        assert main(["table", "guide", "--stable"]) == 0
        assert main(["table", "results/demo", "--stable", "stages"]) == 0
        assert capsys.readouterr().out == "results/guide samples\nresults/demo stages\n"


def test_push_says_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["push"]) == 2
    assert capsys.readouterr().err == "error: the following arguments are required: STUDY; see sdvar-exp push --help\n"
    assert main(["push", "nowhere"]) == 2
    assert "error: there is no study 'nowhere'; results has none" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["push", "nowhere"]) == 2
    assert "W&B is turned off by WANDB_MODE" in capsys.readouterr().err


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", b"\\u03b3"), ("utf-8", "γ".encode())])
def test_any_terminal_shows_a_plan(encoding: str, shown: bytes, repository: Path) -> None:
    """A terminal without Greek letters is no reason to stop, and what machines read stays JSON."""
    environment = {**os.environ, "PYTHONPATH": str(repository), "PYTHONIOENCODING": encoding}
    plan = [sys.executable, "-m", "sdvar_exp", "plan", "strategy=parallel_v1", "labels=0", "seeds=1"]
    done = subprocess.run([*plan, "--json"], capture_output=True, timeout=120, env=environment)
    assert done.returncode == 0 and done.stderr == b"" and shown in done.stdout
    assert json.loads(done.stdout)["cells"][0]["name"] == "parallel_v1 match_rate τ=0.5 γ=2"


def test_output_that_cannot_be_written(repository: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sdvar_exp", "ls"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_a_full_disk_is_no_mistake_of_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from sdvar_exp.store import StorageError

    def full(*_: object) -> None:
        raise StorageError("cannot append to x: No space left on device")

    monkeypatch.setattr("sdvar_exp.config.compose", full)
    assert main(["plan"]) == 1
    assert capsys.readouterr().err == "error: cannot append to x: No space left on device\n"
