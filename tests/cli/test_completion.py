"""Completion: what may follow, and that real shells offer it when Tab is pressed."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from sdvar_exp import registry
from sdvar_exp.cli import VERBS
from sdvar_exp.cli.completion import SCRIPTS, query
from tests.cli.conftest import make_study

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("sdvar-exp pl", ["plan"]),
        ("sdvar-exp run str", ["strategy.", "strategy="]),
        ("sdvar-exp plan strategy=te", ["strategy=test3"]),
        ("sdvar-exp run strategy=test3,par", ["strategy=test3,parallel_v1"]),
        ("sdvar-exp run strategy=test3 strategy.", ["strategy.entry_num="]),
        ("sdvar-exp run strategy=test3,hybrid acceptance=match_rate acceptance.ta", ["acceptance.tau="]),
        ("sdvar-exp run acceptance.tau=", ["acceptance.tau=0.5"]),
        ("sdvar-exp run lab", ["labels="]),
        ("sdvar-exp run design=o", ["design=ofat"]),
        ("sdvar-exp run --fa", ["--failed"]),
        ("sdvar-exp table --gr", ["--group"]),
        ("sdvar-exp ls mas", ["mask"]),
        ("sdvar-exp ls controllers ai", ["aimd"]),
        ("sdvar-exp completion z", ["zsh"]),
        ("sdvar-exp figures --only time", ["time-breakdown"]),
        ("sdvar-exp figures guide --venue neu", ["neurips"]),
        ("sdvar-exp table --stable sta", ["stages"]),
        ("sdvar-exp push --mode on", ["online"]),
        ("sdvar-exp diff a b --fail-on corr", ["correlation>"]),
        ("sdvar-exp run 'labels=[0", []),
        ("sdvar-exp nothing at", []),
        ("sdvar-exp run device=c", ["device=cpu", "device=cuda"]),
        ("sdvar-exp plan dtype=fl", ["dtype=float16", "dtype=float32", "dtype=float64"]),
        ("sdvar-exp run strategy.on_reject=re", ["strategy.on_reject=redraft"]),
        ("sdvar-exp run acceptance=tv acceptance.by", ["acceptance.by_stage="]),
        ("sdvar-exp run --only=x --failed design=o", ["design=ofat"]),
        ("sdvar-exp figures --only=time", ["--only=time-breakdown"]),
        ("sdvar-exp status --config-dir nowhere --pl", ["--plugin"]),
        ("sdvar-exp run strategy=nothing acc", ["acceptance="]),
    ],
)
def test_what_may_follow(line: str, some: list[str]) -> None:
    assert query(line) == some


def test_columns_and_cells_of_one_study() -> None:
    make_study("guide")
    assert query("sdvar-exp table guide --group strategy_e") == ["strategy_entry_num"]
    assert query("sdvar-exp table --group strategy,gamma_v") == ["strategy,gamma_value"]
    cells = query("sdvar-exp logs --study guide ")
    assert query("sdvar-exp logs guide:") == [f"guide:{cell}" for cell in cells] == query("sdvar-exp diff x guide:")
    assert query("sdvar-exp logs --study nowhere ") == []


def test_figures_are_completed_without_what_draws_them(repository: Path) -> None:
    """Pressing Tab waits for no import of a second; the names are those that are registered."""
    code = (
        "import sys\nfrom sdvar_exp.cli.completion import query\nprint(*query('sdvar-exp figures --only '))\n"
        "heavy = {'torch', 'matplotlib', 'pandas', 'scipy', 'hydra', 'omegaconf'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == registry.names("figure")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_parser_that_takes_folder_and_plugin(verb: str) -> None:
    found = query(f"sdvar-exp {verb} --")
    assert {"--config-dir", "--plugin", "--help"} <= set(found)
    assert import_module(f"sdvar_exp.cli.{verb}").parser().prog == f"sdvar-exp {verb}"


def test_all_verbs_groups_and_no_internals() -> None:
    assert set(query("sdvar-exp ")) == {*VERBS, "--help", "--version"}
    keys = query("sdvar-exp run ")
    assert {"strategy=", "mask=", "acceptance=", "gamma=", "seeds=", "labels=", "results_dir=", "timing."} <= set(keys)
    assert not any(key.startswith(("hydra", "schema")) for key in keys)


def test_studies_and_cells_of_the_results_folder(tmp_path: Path) -> None:
    folder = make_study("guide")
    assert query("sdvar-exp table gu") == ["guide"] == query("sdvar-exp diff guide g")
    ids = {path.stem for path in (folder / "cells").glob("*.json")}
    assert set(query("sdvar-exp logs ")) == ids == set(query("sdvar-exp run --only ")) == set(query("sdvar-exp export --cell "))
    assert query("sdvar-exp logs --study ") == ["guide"] == query("sdvar-exp table --json gu")
    assert query("sdvar-exp table --results-dir ") == []
    os.rename("results", tmp_path / "elsewhere")
    assert query("sdvar-exp status ") == [] and query(f"sdvar-exp status --results-dir {tmp_path / 'elsewhere'} ") == ["guide"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_takes_a_study_completes_it(verb: str, call: Call) -> None:
    make_study("guide")
    usage = call(verb, "--help")[1].partition("\n\n")[0].split()
    takes = verb == "diff" or usage[-1] == "[study]" or usage[-2:] == ["[STUDY", "...]"]
    assert (query(f"sdvar-exp {verb} gui") == ["guide"]) == takes, usage


def test_a_group_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\n# Mine.\nseeds: 1\n")
    assert query(f"sdvar-exp run --config-dir {tmp_path} experiment=m") == ["experiment=mine"]


def test_scripts(call: Call) -> None:
    for shell in SCRIPTS:
        assert call("completion", shell)[1] == SCRIPTS[shell]
    assert call("completion", "tcsh")[0] == 2


@pytest.fixture
def environment(repository: Path, tmp_path: Path) -> dict[str, str]:
    """A PATH on which `sdvar-exp` is this working tree."""
    command = tmp_path / "bin" / "sdvar-exp"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{repository}" exec "{sys.executable}" -m sdvar_exp "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "", "HOME": str(tmp_path)}


def press_tab(shell: list[str], setup: str, typed: str, wanted: str, environment: dict[str, str]) -> str:
    """Type into an interactive shell, press Tab, and read until `wanted` shows (or a minute is over): what it showed."""
    master, slave = pty.openpty()
    process = subprocess.Popen(shell, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
    os.close(slave)
    try:
        os.write(master, f"{setup}\necho rea''dy\n".encode())
        seen = _read_until(master, "ready")
        assert "ready" in seen, seen
        os.write(master, f"{typed}\t".encode())
        return _read_until(master, wanted)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _read_until(fd: int, wanted: str) -> str:
    seen, deadline = "", time.monotonic() + 60
    while wanted not in seen and time.monotonic() < deadline:
        if select.select([fd], [], [], 0.2)[0]:
            seen += os.read(fd, 4096).decode(errors="replace")
    return seen


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("sdvar-exp pla", "sdvar-exp plan "),
        ("sdvar-exp run strategy=tes", "strategy=test3 "),
        ("sdvar-exp run strategy=test3 acceptance.ta", "acceptance.tau="),
    ],
)
def test_bash(typed: str, wanted: str, environment: dict[str, str]) -> None:
    seen = press_tab(["bash", "--norc", "--noprofile", "-i"], 'eval "$(sdvar-exp completion bash)"', typed, wanted, environment)
    assert wanted in seen


@pytest.mark.needs("zsh")
@pytest.mark.parametrize(
    ("typed", "wanted"), [("sdvar-exp run strategy=tes", "strategy=test3"), ("sdvar-exp run acceptance.ta", "acceptance.tau=")]
)
def test_zsh(typed: str, wanted: str, environment: dict[str, str]) -> None:
    setup = 'PS1=""; autoload -Uz compinit; compinit -u -D; eval "$(sdvar-exp completion zsh)"'
    assert wanted in press_tab(["zsh", "-f", "-i"], setup, typed, wanted, environment)


@pytest.mark.needs("fish")
@pytest.mark.parametrize(
    ("typed", "wanted"), [("sdvar-exp run strategy=tes", "strategy=test3"), ("sdvar-exp run acceptance.ta", "acceptance.tau=")]
)
def test_fish(typed: str, wanted: str, environment: dict[str, str]) -> None:
    script = f"sdvar-exp completion fish | source; complete -C '{typed}'"
    done = subprocess.run(["fish", "-N", "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.split() == [wanted], done.stderr
