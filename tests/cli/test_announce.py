"""`run --json`, and the exit codes that AGENTS.md documents."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from sdvar_exp import cli
from sdvar_exp.cli.announce import KINDS, kind_of
from sdvar_exp.config import compose
from sdvar_exp.errors import UserError
from sdvar_exp.runner.running import run as running
from sdvar_exp.runner.running.failures import UnitTimeout, describe
from sdvar_exp.store import StorageError, Study
from tests.docs.pages import ROOT
from tests.store.making import FINGERPRINT, unit_body

Call = Callable[..., tuple[int, str, str]]
WORDS = ["strategy=sequential,draft_only", "labels=[0]", "seeds=1", "study=s"]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the runner: one unit is done, one fails with the given error, one had failed before."""
    about: dict[str, Any] = {"error": "oom: MemoryError: x", "code": 1}

    def run_study(plan: Any, console: Any, launch: Callable[[dict], None]) -> int:
        with Study(plan.folder).open(plan, FINGERPRINT) as study:
            first, second = (p.cell.id for p in plan.cells)
            failure = {"type": "failure", "cell": second, "label": 0, "seed": 0, "attempt": 1, "traceback": ""}
            study.append({**failure, "error": "ValueError: of an earlier command"})
            launch({"study": plan.study, "folder": str(plan.folder)})
            console.print("for people")
            study.append(unit_body(first, 0, 0), {**failure, "error": about["error"]})
        if "raises" in about:
            raise about["raises"]
        return about["code"]

    fake: Any = ModuleType("sdvar_exp.runner")
    fake.run_study = run_study
    monkeypatch.setitem(sys.modules, "sdvar_exp.runner", fake)
    return about


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_launch_failures_done(runner: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--json", *WORDS]) == 1
    out, err = capsys.readouterr()
    launch, failure, done = read(out)
    assert launch["record"] == "launch" and launch["study"] == "s" and "for people" in err
    cell = compose(WORDS).cells[1].cell.id
    assert failure.items() >= {"record": "failure", "kind": "out_of_memory", "cell": cell, "label": 0, "seed": 0}.items()
    assert done == {"record": "done", "exit_code": 1, "units": 1, "failures": 1}


def test_a_command_that_is_refused_is_a_failure_too(runner: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--json", "strategy=nope"]) == 2
    failure, done = read(capsys.readouterr().out)
    assert failure["kind"] == "usage" and "nope" in failure["error"] and done["exit_code"] == 2
    runner["raises"] = StorageError("cannot append")
    assert cli.main(["run", "--json", *WORDS]) == 1
    assert [(r["record"], r.get("kind")) for r in read(capsys.readouterr().out)][1:] == [("failure", "storage"), ("done", None)]
    assert cli.main(["run", "--json", "--cfg", "job"]) == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (describe(MemoryError("x")), "out_of_memory"),
        (describe(UnitTimeout("took long")), "timeout"),
        ("worker 3 was killed by SIGKILL", "killed"),
        ("killed by SIGSEGV, a segmentation fault", "killed"),
        ("NotFiniteError: NaN", "not_finite"),
        ("BaselineError: its baseline failed", "baseline"),
        ("AcceleratorError: CUDA", "device"),
        ("ValueError: no room for x", "error"),
    ],
)
def test_kinds(error: str, kind: str) -> None:
    assert kind_of(error) == kind


def test_every_exit_code_and_kind_is_documented() -> None:
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    codes = {cli.FAILED, cli.USAGE, cli.INTERRUPTED, UserError.exit_code, StorageError.exit_code}
    codes |= {running.FINE, running.FAILED, running.INTERRUPTED, running.TERMINATED}
    for file in (ROOT / "sdvar_exp" / "cli").glob("*.py"):
        codes |= {int(n) for n in re.findall(r"^[A-Z]+ = (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if int(n) < 4}
    said = text.partition("Exit codes: ")[2].partition("\n\n")[0]
    assert {int(number) for number in re.findall(r"\d+", said)} == codes
    assert all(f"`{kind}`" in text for kind in (*KINDS.values(), "killed", "usage", "storage", "error"))
