"""Command lines made at random from a grammar of words: whatever is typed, the answer is an answer, or one line a mistake."""

from __future__ import annotations

import json
import os
import random
import re
import time
from math import prod
from pathlib import Path

import pytest

from sdvar_exp import registry, runner
from sdvar_exp.cli import main
from sdvar_exp.config import folder
from sdvar_exp.config.command import Command, load_entries, read_command
from sdvar_exp.config.overrides import Known, expand_all
from sdvar_exp.errors import UserError

LINE = re.compile(r"(error|note): \S.*")
SECONDS = 2.0  # of this process, for a line that is refused
LONGEST = 20.0  # for one that is answered: Hydra's own help takes seconds, a large plan too
EACH = 0.02  # more for each combination of swept values
ROOT = (
    "labels",
    "seeds",
    "study",
    "results_dir",
    "device",
    "dtype",
    "threads",
    "batch",
    "images",
    "stage_images",
    "timing.units",
)
ROOT += ("timing.repeats", "timing", "plugins", "allow_mixed", "cells", "exclude", "require", "objective")
HYDRA = ("hydra.searchpath", "hydra/sweeper", "hydra/launcher", "hydra.run.dir", "hydra.verbose", "hydra.mode", "hydra")
HYDRA += ("hydra.sweeper.params", "hydra.sweeper.n_jobs", "hydra.launcher.x", "hydra.job.name", "hydra/launcher@_global_")
NO_KEYS = (
    "",
    "x",
    "x.y",
    "strategy.",
    ".mask",
    "a/b",
    "mask@here",
    "labels.0",
    "schema/root",
    "0",
    "strategy/test3",
    "_self_",
    "a b",
)
NUMBERS = ("0", "1", "2", "-1", "1.5", "1e308", "inf", "nan", "9223372036854775808", "007", "1_000", "0x10", "1e-320", "-0")
ODD = (
    "null",
    "true",
    "off",
    "yes",
    "???",
    "~",
    "~x",
    "~/x",
    "''",
    '""',
    "'a b'",
    "a b",
    "é",
    "γ",
    "$",
    "*",
    "@",
    "\\",
    "a=b",
    "",
    " ",
)
ODD += (
    "${x}",
    "${seeds}",
    "${hydra:runtime.cwd}",
    "${oc.env:HOME}",
    "${oc.env:NOT_SET}",
    "${",
    "$" + "{${a}}",
    "all",
    "none",
    "\x1b[31m",
)
BROKEN = ("[", "]", "{", "}", "(", ")", "'", '"', ",", ":", "[[[[", "[" * 40 + "]" * 40, "{a:" * 20 + "1" + "}" * 20, "f(" * 9)
FLAGS = (
    "-m",
    "--multirun",
    "-r",
    "--json",
    "--cfg job",
    "--cfg all",
    "--cfg",
    "-c hydra",
    "--info",
    "-i defaults",
    "-sc",
    "-sc query=x",
)
FLAGS += (
    "--resolve",
    "--package mask",
    "-p x",
    "--hydra-help",
    "--config-dir nowhere",
    "-cd .",
    "--config-dir",
    "--only test3",
    "--only",
)
FLAGS += ("--failed", "--strategy=test3", "--seeds 3", "--dry-run", "--study x", "-", "--", "-x", "--help=1")


class Words:
    """A generator of command lines. rng: where its choices come from."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        known = Known()
        self.names = {group: known.names(group) for group in folder.GROUPS}
        self.keys = {"group": folder.GROUPS, "parameter": known.parameters(), "root": ROOT, "hydra": HYDRA, "none": NO_KEYS}

    def line(self) -> list[str]:
        words = [self.word() for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3, 5)))]
        if self.rng.random() < 0.15:
            words[self.rng.randrange(len(words)) : 0] = self.rng.choice(FLAGS).split()
        return words

    def word(self) -> str:
        kind = self.rng.choices(list(self.keys), (5, 4, 5, 2, 1))[0]
        key = self.rng.choice(self.keys[kind])
        prefix = self.rng.choices(("", "+", "++", "~"), (20, 1, 1, 1))[0]
        if self.rng.random() < 0.03:
            return prefix + key
        return f"{prefix}{key}={self.value(key, 0)}"

    def value(self, key: str, depth: int) -> str:
        forms = (self.fitting, self.number, self.odd, self.broken, self.listed, self.sweep, self.function, self.mapping)
        weights = (9, 4, 4, 1, 2, 3, 3, 1)
        return self.rng.choices(forms[: 4 if depth > 2 else 8], weights[: 4 if depth > 2 else 8])[0](key, depth)

    def fitting(self, key: str, depth: int) -> str:
        if key in self.names:
            return self.rng.choice(self.names[key])
        if key == "cells":
            return f"[[{self.word()!r}],[{self.word()!r},{self.word()!r}]]"
        if key in ("exclude", "require"):
            return f"[{{{self.rng.choice(self.keys['parameter'])}:{self.value(key, 3)},reason:why}}]"
        return self.rng.choice(("1", "2", "0.5", "x", "cpu", "float32", "[0,3]", "true", "correct", "[a]"))

    def number(self, key: str, depth: int) -> str:
        return self.rng.choice(NUMBERS)

    def odd(self, key: str, depth: int) -> str:
        return self.rng.choice(ODD)

    def broken(self, key: str, depth: int) -> str:
        return self.rng.choice(BROKEN)

    def several(self, key: str, depth: int) -> str:
        return ",".join(self.value(key, depth + 1) for _ in range(self.rng.randint(1, 4)))

    def listed(self, key: str, depth: int) -> str:
        return f"[{self.several(key, depth)}]"

    def sweep(self, key: str, depth: int) -> str:
        return self.several(key, depth)

    def function(self, key: str, depth: int) -> str:
        name = self.rng.choice(
            ("choice", "range", "interval", "glob", "shuffle", "sort", "tag", "int", "str", "bool", "float", "f")
        )
        if name == "range":
            return f"range({','.join(self.rng.choice((*NUMBERS, '1e9', '3', '10')) for _ in range(self.rng.randint(1, 3)))})"
        if name == "glob":
            return f"glob({self.rng.choice(('*', 't*', 'zz*', '[', '*,exclude=t*'))})"
        return f"{name}({self.several(key, depth)})"

    def mapping(self, key: str, depth: int) -> str:
        return f"{{{self.rng.choice(('a', 'window', '0', 'null'))}:{self.value(key, depth + 1)}}}"


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` decodes nothing."""
    monkeypatch.setattr(runner, "run_study", lambda plan, console: 0)


def answer(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """What is wrong with the answer to a command line; None if it is one."""
    before, start = sorted(Path.cwd().rglob("*")), time.process_time()
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 99
    except BaseException as error:
        capsys.readouterr()
        return f"{type(error).__name__}: {error}"
    seconds, said = time.process_time() - start, capsys.readouterr()
    if seconds > (SECONDS if code == 2 else LONGEST) and (code == 2 or seconds > LONGEST + EACH * combinations(argv[1:])):
        return f"took {seconds:.1f} s"
    if code not in (0, 2) or (code == 2) != ("error: " in said.err):
        return f"exit code {code}: {said.err[-300:]}"
    strange = [line for line in said.err.splitlines() if not LINE.fullmatch(line)]
    if strange:
        return f"strange line {strange[0]!r}"
    records = said.out.splitlines() if code == 2 else []
    if records and not (
        argv[0] == "run" and "--json" in argv and [json.loads(r)["record"] for r in records] == ["failure", "done"]
    ):
        return f"a mistake that prints {said.out[:200]!r}"
    if any(len(line) > 1500 for line in said.err.splitlines()):
        return f"a line of {max(map(len, said.err.splitlines()))} letters"
    after = sorted(path for path in Path.cwd().rglob("*") if path.name != "results")
    return None if after == before else f"wrote {set(after) - set(before)}"


def refused(words: list[str]) -> list[str]:
    """What is wrong with the words before anything is composed, a line each; a mistake of ours is raised."""
    try:
        command = read_command(words)
        lines: list[str] = []
        expand_all(command.overrides, Known(command.extra), lines)
    except UserError as error:
        return str(error).splitlines()
    return lines


def combinations(words: list[str]) -> int:
    """How many jobs a command line asks for."""
    command = read_command(words)
    return prod(map(len, expand_all(command.overrides, Known(command.extra), []).values()))


def refused_badly(words: list[str]) -> tuple[bool, str | None]:
    """Whether words are refused before anything is composed, and what is wrong with the answer."""
    start = time.process_time()
    try:
        lines = refused(words)
    except BaseException as error:
        return True, f"{type(error).__name__}: {error}"
    if (seconds := time.process_time() - start) > SECONDS:
        return True, f"took {seconds:.1f} s"
    return bool(lines), next((f"line {line!r}" for line in lines if len(line) > 1500 or not re.fullmatch(r"\S.*", line)), None)


def campaign(first: int, number: int, capsys: pytest.CaptureFixture[str], whole: bool = True) -> list[str]:
    """Command lines of the seeds first … first+number-1 that were answered badly, and how.

    whole: every line runs as a user's would. Else those that are refused before anything is composed, three in four, are asked
    there, which is a hundred times as fast, and Hydra's own flags are left out, which are its own affair.
    """
    registry.discover()
    load_entries(Command())
    bad, words = [], Words(random.Random(0))
    for seed in range(first, first + number):
        words.rng = random.Random(seed)
        argv = [random.Random(f"verb {seed}").choice(("plan", "plan", "run")), *words.line()]
        if not whole:
            done, problem = refused_badly(argv[1:])
            bad += [f"{seed} {argv}: {problem}"] if problem else []
            if done or any(word.startswith("-") for word in argv[1:]):
                continue
        problem = answer(argv, capsys)
        if problem is not None and problem.startswith("took"):
            problem = answer(argv, capsys)  # what was composed for the first time is kept now
        if problem is not None:
            bad.append(f"{seed} {argv}: {problem}")
    return bad


def test_a_hundred_command_lines(no_run: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign(0, 100, capsys) == []


@pytest.mark.long
def test_hundreds_of_command_lines(no_run: None, capsys: pytest.CaptureFixture[str]) -> None:
    """SDVAR_FUZZ=1000,5000 makes a campaign: the first seed, and how many."""
    first, number = map(int, os.environ.get("SDVAR_FUZZ", "100,300").split(","))
    assert campaign(first, number, capsys) == []


@pytest.mark.long
def test_thousands_of_command_lines(no_run: None, capsys: pytest.CaptureFixture[str]) -> None:
    """SDVAR_FUZZ_MANY=1000,10000 makes a campaign."""
    first, number = map(int, os.environ.get("SDVAR_FUZZ_MANY", "1000,2000").split(","))
    assert campaign(first, number, capsys, whole=False) == []
