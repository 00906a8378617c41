"""Output whose reader goes away ends nothing; what a foreign study says cannot steer the terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.text import Text

from sdvar_exp.guest import CONTROL, guarded, visible
from sdvar_exp.runner.running.progress import phase, say
from sdvar_exp.screen import Faults, Screen
from sdvar_exp.store import Study
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


@pytest.mark.parametrize(("module", "name", "code"), [("sdvar_exp.screen", "Screen", 0), ("rich.console", "Console", 1)])
def test_what_runs_goes_on(module: str, name: str, code: int, repository: Path) -> None:
    """Negative control: rich's own console ends the program."""
    found, said = closed_after(2, WORK.format(module=module, name=name), repository)
    assert found == code and ("all done" in said) == (code == 0), said


def test_a_table_that_is_cut_short_is_no_failure(repository: Path) -> None:
    make_study()
    code = "import sys\nfrom sdvar_exp.cli import main\nsys.exit(main(['table', 'demo']))"
    assert closed_after(0, code, repository) == (0, "")


EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202efdp.\u2066\x7f\r"
SHOWN = "\\u001b]0;owned\\u0007\\u001b[2J\\u009b31m\\u202efdp.\\u2066\\u007f\\u000d"


def test_control_characters_are_escaped_as_json_does() -> None:
    assert visible(EVIL) == SHOWN and visible("γ × 2\t|\n") == "γ × 2\t|\n"
    assert json.loads(f'"{visible(EVIL)}"') == EVIL


def test_one_place_makes_consoles(repository: Path) -> None:
    """Rich's own class would let the text of a study through: all others are `Screen`s."""
    places = [path for folder in ("sdvar_exp", "scripts", "benchmarks") for path in (repository / folder).rglob("*.py")]
    made = [
        f"{path}" for path in places if re.search(r"\b(Console\(|get_console|rich\.print|import print\b)", path.read_text())
    ]
    assert len(places) > 100 and made == []
    assert "class Screen(Console)" in (repository / "sdvar_exp/screen.py").read_text()
    out = io.StringIO()
    Screen(file=out, width=200).print(EVIL, {"a": EVIL})
    assert "owned" in out.getvalue() and not CONTROL.search(out.getvalue())


def test_a_guarded_stream_is_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with guarded():
        print(EVIL)
        sys.stderr.writelines([EVIL, "\n"])
        Screen(force_terminal=True).print(Text(EVIL, "bold"))
        logging.getLogger("x").warning(EVIL)
    assert (sys.stdout, sys.stderr) == before
    said = capsys.readouterr()
    assert said.out.startswith(f"{SHOWN}\n\x1b[1m"), "rich's own colours stay"
    assert not CONTROL.search(said.out.replace("\x1b[1m", "").replace("\x1b[0m", "")) and not CONTROL.search(said.err)


def test_a_stream_that_is_missing_or_replaced_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with guarded():
        assert sys.stderr is None
        sys.stdout = other = io.StringIO()
    assert sys.stdout is other


@pytest.mark.parametrize(
    "words",
    [
        *(
            ["status", "demo"],
            ["status", "demo", "--json"],
            ["table", "demo"],
            ["table", "demo", "--csv"],
            ["logs", "E", "--json"],
        ),
        *(
            ["logs", "E"],
            ["table", "demo", "--latex"],
            ["table", "demo", "--group", "name"],
            ["power", "demo", "--effect", "1.1"],
        ),
        *(
            ["diff", "demo", "demo"],
            ["gc", "demo"],
            ["logs", EVIL],
            ["diff", "demo", EVIL],
            [EVIL],
            ["ls", EVIL],
            ["plan", EVIL],
        ),
        *(
            ["table", "demo", "--where", f"name == '{EVIL}'"],
            ["power", "demo", "--metric", EVIL, "--effect", "1"],
            ["verify", EVIL],
        ),
        *(
            ["export", "demo", "--to", "x"],
            ["collect", "demo", "--no-figures"],
            ["quality", "demo"],
            ["figures", "demo", "--only", EVIL],
        ),
    ],
    ids=lambda words: " ".join(words).replace(EVIL, "EVIL"),
)
def test_text_of_a_foreign_study_does_not_steer_the_terminal(
    words: list[str], call: Callable[..., tuple[int, str, str]]
) -> None:
    folder = make_study(skip=1)
    cell = next(path for path in (folder / "cells").glob("*.json") if "parallel_v1" in path.read_text())
    about = json.loads(cell.read_text())
    evil = EVIL.replace("\r", "")
    about |= {"name": f"E{evil}", "overrides": [evil]}
    about["config"]["mask"]["name"] = about["config"]["acceptance"]["mode"] = evil
    cell.write_text(json.dumps(about))
    unit = {"cell": cell.stem, "label": 3, "seed": 0}
    with Study(folder).attach() as study:
        study.append({"type": "failure", **unit, "attempt": 2, "error": evil, "traceback": f"T\n {evil}"})
        study.append({"type": "session", "argv": [evil], "cells": [cell.stem], "host": evil, "code": evil, "pid": 1})
        study.append({"type": evil, **unit})
    code, out, err = call(*(word if word != "E" else cell.stem for word in words))
    assert code in (0, 1, 2) and (out or err) and not CONTROL.search(out + err)
    assert re.search(r"(?i)(u\+?00|x)1b", out + err) or words[0] not in ("status", "table", "logs"), "shown, not dropped"


def test_quiet_shows_faults_alone() -> None:
    out = io.StringIO()
    console = Faults(file=out, width=80)
    say(console, "all is well")
    console.print()
    console.print("a table")
    say(console, "failed: this", "red")
    say(console, "W&B: did not answer", "yellow")
    with phase(console, "decode", 1) as step:
        step()
    assert out.getvalue() == "failed: this\nW&B: did not answer\n"
