"""Output whose reader goes away ends nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import make_study


def closed_after(lines: int, code: str, repository: Path) -> tuple[int, str]:
    """Run Python code whose standard output is closed once so many lines were read: its exit code and what it told."""
    environment = {**os.environ, "PYTHONPATH": str(repository), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None and process.stderr is not None
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    return process.wait(60), said


WORK = (
    "import sys, time\nfrom {module} import {name} as Console\nconsole = Console()\n"
    "for i in range(50):\n    console.print('line', i)\n    time.sleep(0.01)\nprint('all done', file=sys.stderr)"
)


@pytest.mark.parametrize(("module", "name", "code"), [("sdvar_exp.cli.screen", "Screen", 0), ("rich.console", "Console", 1)])
def test_what_runs_goes_on(module: str, name: str, code: int, repository: Path) -> None:
    """Negative control: rich's own console ends the program."""
    found, said = closed_after(2, WORK.format(module=module, name=name), repository)
    assert found == code and ("all done" in said) == (code == 0), said


def test_a_table_that_is_cut_short_is_no_failure(repository: Path) -> None:
    make_study()
    code = "import sys\nfrom sdvar_exp.cli import main\nsys.exit(main(['table', 'demo']))"
    assert closed_after(0, code, repository) == (0, "")
