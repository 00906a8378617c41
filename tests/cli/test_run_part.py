"""What is left of a command: plan against a ledger, run --only and run --failed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sdvar_exp.config import compose
from sdvar_exp.plan import Plan
from sdvar_exp.runner.running.work import groups
from sdvar_exp.store import Study
from tests.store.making import FINGERPRINT, timing_body, unit_body

Call = Callable[..., tuple[int, str, str]]
WORDS = ["strategy=sequential,draft_only,test3", "labels=[0,3]", "seeds=2", "study=s", "timing.units=2", "timing.repeats=1"]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Plans that reach the runner, which does nothing else."""
    seen: list[Plan] = []
    fake: Any = ModuleType("sdvar_exp.runner")
    fake.run_study = lambda plan, console: seen.append(plan) or 0
    monkeypatch.setitem(sys.modules, "sdvar_exp.runner", fake)
    return seen


@pytest.fixture
def study() -> dict[str, str]:
    """Ids by strategy. sequential is done, of draft_only one unit failed and one failed before it worked; 3 s a unit."""
    plan = compose(WORDS)
    ids = {p.cell.strategy.name: p.cell.id for p in plan.cells}
    with Study(plan.folder).open(plan, FINGERPRINT | {"checkpoints": {"embedded": {"vae": "a"}}}) as opened:
        at = 0
        for strategy, units in {"sequential": [(0, 0), (3, 0), (0, 1), (3, 1)], "draft_only": [(0, 0), (3, 0)]}.items():
            for label, seed in units:
                at += 3
                opened.append(unit_body(ids[strategy], label, seed, finished_at=f"2026-01-01T00:00:{at:02}Z", host="h", pid=1))
        opened.append(timing_body(ids["sequential"], 0, 0, 0, baseline=1000.0, ms=979.0))
        for label, seed in ((0, 0), (3, 1)):
            opened.append(
                {
                    "type": "failure",
                    "cell": ids["draft_only"],
                    "label": label,
                    "seed": seed,
                    "attempt": 1,
                    "error": "ValueError: x",
                    "traceback": "",
                }
            )
    return ids


def test_plan_says_what_is_left(study: dict[str, str], call: Call) -> None:
    """6 pending units at 3 s, 5 of 6 timings at 2 s: 28 s."""
    plan = json.loads(call("plan", "--json", *WORDS)[1])
    assert (plan["units_with_baselines"], plan["cached"], plan["pending"], plan["failed"], plan["timings"]) == (12, 6, 6, 1, 5)
    assert [cell["pending"] for cell in plan["cells"]] == [0, 2, 4]
    assert plan["eta_seconds"] == pytest.approx(6 * 3 + 5 * 2) and plan["eta_from_units"] == 5
    assert plan["images"] == 12 + 2, "sample and difference, and one picture of the stages of each cell with pending units"
    assert plan["image_bytes"] is None and plan["free_bytes"] > 0
    out = call("plan", *WORDS)[1]
    assert "cached 6, pending 6, 1 of them failed before; 5 timings to measure" in out
    assert "time: about 28 s, from 5 units of s" in out and "draft_only  2 pending" in out and "sequential  done" in out


@pytest.mark.long
def test_a_new_study_is_estimated_from_one_of_the_same_models(study: dict[str, str], call: Call) -> None:
    picture = Path("results/s/images/x/0_0.png")
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"x" * 1000)
    plan = json.loads(call("plan", "--json", *WORDS, "study=t", "images=1")[1])
    assert plan["eta_seconds"] == pytest.approx(12 * 3 + 6 * 2) and plan["pending"] == 12
    assert plan["images"] == 1 + 2 + 2 + 3 and plan["image_bytes"] == 8000
    for other in ("model=var_d16_d30", "dtype=float64", "device=cuda", "model=embedded_plain"):
        assert json.loads(call("plan", "--json", *WORDS, "study=t", other)[1])["eta_seconds"] is None, other


def test_plan_says_what_run_refuses(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdvar_exp.cli.plan.gpu_here", lambda: False)
    out = call("plan", *WORDS, "study=t", "device=cuda", "model=var_d16_d30")[2]
    assert "`run` will refuse: device=cuda: there is no CUDA GPU here" in out
    assert "`run` will refuse: model=var_d16_d30: " in out and " is not in checkpoints" in out
    assert "will refuse" not in call("plan", *WORDS, "study=t")[2]
    monkeypatch.setattr("sdvar_exp.cli.plan.gpu_here", lambda: True)
    assert "CUDA" not in call("plan", *WORDS, "study=t", "device=cuda")[2]


def test_what_was_timed_beside_another_process_is_left_to_time(study: dict[str, str], call: Call) -> None:
    with Study(Path("results/s")).attach() as opened:
        opened.append(timing_body(study["sequential"], 3, 0, 0, 20, 10, contended=True))
        opened.append(timing_body(study["sequential"], 0, 0, 1, 20, 10))
    assert json.loads(call("plan", "--json", *WORDS)[1])["timings"] == 5, "an added repeat and a contended one count for none"


@pytest.mark.parametrize(
    ("only", "strategies"),
    [
        (["test3"], ["test3"]),
        (["strategy=draft_only"], ["draft_only"]),
        (["t*", "seq*"], ["sequential", "test3"]),
        (["1,3"], ["sequential", "test3"]),
        (["2-3"], ["draft_only", "test3"]),
    ],
)
def test_only(only: list[str], strategies: list[str], runner: list[Plan], call: Call) -> None:
    words = [word for one in only for word in ("--only", one)]
    assert call("run", *WORDS, *words)[0] == 0
    (plan,) = runner
    assert [p.cell.strategy.name for p in plan.cells] == strategies
    assert plan.argv == (*WORDS, *words), "the command that continues is the whole one"


def test_only_single_images(runner: list[Plan], call: Call) -> None:
    """With the images that they are compared with, or their rows would have no twin."""
    assert [line.rpartition("#")[2] for line in call("plan", *WORDS)[1].splitlines()[:3]] == ["1", "2", "3"]
    assert call("run", *WORDS, "--only", "test3@3,1", "--only", "2@0,0", "--quiet") == (0, "", "")
    (plan,) = runner
    (sequential, draft_only, test3) = (p.cell.id for p in compose(WORDS).cells)
    assert [p.cell.id for p in plan.cells] == [draft_only, test3]
    assert plan.only == {(test3, 3, 1), (sequential, 3, 1), (draft_only, 0, 0), (sequential, 0, 0)}


def test_a_cell_is_named_with_its_study(study: dict[str, str], runner: list[Plan], call: Call) -> None:
    assert call("run", *WORDS, "--only", "s:test3")[0] == 0
    assert [p.cell.strategy.name for p in runner[0].cells] == ["test3"]
    compose_other = compose(["strategy=sequential", "study=t"])
    with Study(compose_other.folder).open(compose_other, FINGERPRINT):
        pass
    assert call("run", *WORDS, "--only", "t:test3")[2] == (
        "error: --only t:test3: this command is of the study s; give study=t\n"
    )
    assert call("logs", "s:draft_only", "--json")[1].startswith('{"type": "cell", "study": "results/s"')
    assert "results/s keeps no images" in call("export", "--cell", "s:draft_only", "--to", "x")[2]


def test_an_unrelated_command_in_the_folder_of_those_without_a_name_is_told(runner: list[Plan], call: Call) -> None:
    words = ["strategy=test3", "labels=[0,3]", "seeds=2"]
    plan = compose(words)
    with Study(plan.folder).open(plan, FINGERPRINT):
        pass
    note = "note: results/default holds 1 cell of other commands; study=NAME gives this one a folder of its own\n"
    assert call("run", *words, "seeds=3")[2] == "" and call("run", "strategy=draft_only", "study=x")[2] == ""
    assert call("run", "strategy=draft_only", "labels=[0]")[2] == note
    assert call("plan", "strategy=draft_only", "labels=[0]")[2].startswith(note)


def test_code_that_is_no_commits_is_refused(runner: list[Plan], call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    states = [{"commit": "c", "dirty": False}, {"commit": "c", "dirty": True}, None]
    monkeypatch.setattr("sdvar_exp.store.provenance.git_state", lambda: states.pop())
    assert call("run", *WORDS, "enforce_clean=true")[::2] == (
        2,
        "error: enforce_clean=true: the code lies in no git checkout, or git is missing; run from a checkout\n",
    )
    assert "differs from the commit; commit it" in call("run", *WORDS, "enforce_clean=true")[2]
    assert call("run", *WORDS, "enforce_clean=true")[0] == 0 and len(runner) == 1


def test_only_what_failed(study: dict[str, str], runner: list[Plan], call: Call) -> None:
    """A unit that failed and has a row now is fine."""
    code, _, err = call("run", *WORDS, "--failed")
    (plan,) = runner
    key = (study["draft_only"], 3, 1)
    assert code == 0 and plan.only == {key} and "note: 1 unit that failed, of 1 cell" in err
    (group,) = groups(plan, set())
    assert [task.unit_keys for task in group.tasks] == [(key,)], "the runner decodes nothing else"
    assert call("run", *WORDS, "--failed", "--only=test3")[1] == "nothing of this command failed in results/s\n"
    assert len(runner) == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--only", "test4"], "--only test4: no cell of this command is meant; sdvar-exp plan lists them"),
        (
            ["--only", "test3 K=6"],
            "--only test3 K=6: no cell of this command is meant; did you mean 'test3 K=5'?; sdvar-exp plan lists them",
        ),
        (["--only", "2-4"], "--only 2-4: the cells of this command have the numbers 1 to 3; sdvar-exp plan lists them"),
        (["--only", "1@0,9"], "--only 1@0,9: label 0, seed 9 is no image of this command; add it to labels and seeds"),
        (["--only"], "--only needs a cell: an id, a name, a pattern or key=value"),
        (["--faild"], "unknown option --faild; did you mean '--failed'?"),
    ],
)
def test_mistakes(words: list[str], line: str, runner: list[Plan], call: Call) -> None:
    code, out, err = call("run", *WORDS, *words)
    assert (code, out, err) == (2, "", f"error: {line}\n") and not runner
