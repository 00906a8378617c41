"""A unit that takes its process with it: in the command's own process, and in a pool that gets past it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import pytest

from sdvar_exp.runner.running.failures import recover
from sdvar_exp.runner.running.work import UnitKey
from sdvar_exp.store import Study

Call = Callable[..., subprocess.CompletedProcess[str]]

PLUGIN = '''"""A rule that ends its process."""
import os, signal
from sdvar_exp.registry import register

@register("acceptance", "deadly")
def deadly(_, view):
    """A segmentation fault."""
    os.kill(os.getpid(), signal.SIGSEGV)
'''


@pytest.mark.long
@pytest.mark.needs("weights")
def test_a_fault_is_recorded_with_its_stack_and_takes_no_other_unit_with_it(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "deadly_rule.py").write_text(PLUGIN)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{repository}"}
    words = [
        "run",
        "plugins=[deadly_rule]",
        "strategy=sequential,parallel_v1",
        "acceptance=deadly",
        "labels=1",
        "seeds=1",
        "timing.units=0",
        "tracking=none",
        "images=none",
    ]

    def call(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sdvar_exp", *argv],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    assert call(*words).returncode == -signal.SIGSEGV
    assert json.loads(call("status", "--json").stdout)[0]["done"] == 1, "what was decoded before it stays"
    for number in range(2):  # the same command goes on without it, as often as it is called
        again = call(*words)
        assert again.returncode == 1 and "1 unit left out that ended a process before: engine=pool" in again.stdout
        assert ("killed by SIGSEGV, a segmentation fault; its stack: sdvar-exp logs" in again.stdout) == (number == 0)
        failed = failures(call)
        assert [body["error"] for body in failed] == ["killed by SIGSEGV, a segmentation fault"]
        assert "deadly_rule.py" in failed[0]["traceback"] and "in deadly" in failed[0]["traceback"]
    assert call(*words, "engine=pool", "engine.workers=1", "engine.retries=0").returncode == 1
    assert ["killed by SIGSEGV" in body["error"] for body in failures(call)] == [True, True]
    assert not list(tmp_path.glob("results/*/crash/*"))
    assert call(*words[:3], "acceptance=deadly,exact", *words[4:]).returncode == 1
    assert json.loads(call("status", "--json").stdout)[0]["done"] == 2, "other cells of such a sweep are decoded"


def failures(call: Call) -> list[dict[str, Any]]:
    """The failures that the study records."""
    records = map(json.loads, call("logs", "parallel_v1", "--json").stdout.splitlines())
    return [body for body in records if body["type"] == "failure"]


NOTE = json.dumps([["c0ffee", 3, 1], ["c0ffee", 3, 0]])  # a batch, of which the second unit was done before
STACK = 'Fatal Python error: Bus error\n\nCurrent thread 0x1 (most recent call first):\n  File "x.py", line 1 in f\n'


@pytest.mark.parametrize(
    ("content", "recorded"),
    [
        (f"{NOTE}\n{STACK}", True),
        (f"{NOTE}\nstale rest of a longer note\n{STACK}", True),
        (f"{NOTE}\n", False),
        ("", False),
        (STACK, False),
        (f"no note\n{STACK}", False),
        (f"{{}}\n{STACK}", False),
    ],
)
def test_only_a_fault_is_recorded(content: str, recorded: bool, tmp_path: Path) -> None:
    """A process that was killed leaves a note without a stack: its unit is simply not done."""
    study = Bare(tmp_path)
    path = tmp_path / "crash" / "host-1.log"
    path.parent.mkdir()
    path.write_text(content)
    with path.open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert recover(study) == [] and path.exists(), "its process is alive"
    lines = recover(study)
    assert len(lines) == len(study.bodies) == int(recorded) and not path.exists()
    if recorded:
        assert "cell c0ffee, label 3, seed 1: killed by SIGBUS" in lines[0]
        assert study.bodies[0]["attempt"] == 3 and study.bodies[0]["traceback"] == STACK
    assert recover(study) == []


class Bare(Study):
    """Keeps what is appended; the unit of `NOTE` has failed twice."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bodies: list[dict[str, Any]] = []

    def append(self, *bodies: Mapping[str, Any]) -> None:
        self.bodies += map(dict, bodies)

    def done(self) -> Set[UnitKey]:
        return {("c0ffee", 3, 0)}

    def failures(self) -> Counter[UnitKey]:
        return Counter({("c0ffee", 3, 1): 2})
