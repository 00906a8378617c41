"""Sample mutants of a folder and run tests on each: which changes of the code would nobody see?

    python scripts/mutants.py sdvar_exp/decoding --count 150 --seed 14 -- tests/decoding -m "not long"
    python scripts/mutants.py sdvar_exp/decoding --again earlier.txt -- tests/decoding/test_masks.py

A mutant is one comparison, operator, constant or condition changed in a copy of the repository. First all tests run once,
traced: a mutant is then shown to the tests that execute its line, the shortest first, until one fails. Each is tried in a
fork of a process that has collected the tests, where the changed function takes its new code; what runs at import, in a
fork that has imported no more than the large packages. Each mutant gives a line: killed, survived, unseen (no test
executes it), or endless (stopped after --timeout: a loop without end, or a slow machine). `--again` reads such lines and
tries those again that were not killed. A constant or a default that is read by tests that execute no line near it is not
shown to them: try it by hand.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from _pytest.main import pytest_runtestloop as runtestloop

ROOT = Path(__file__).resolve().parents[1]
# Imported before the forks; none of them starts threads by that.
LARGE = ("torch", "hypothesis", "pandas", "pyarrow.parquet", "scipy.stats", "hydra", "PIL.Image", "safetensors.torch", "jinja2")
COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
OPERATE = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
# Keywords that forbid mistakes or save time, and change nothing that correct code does.
GUARDS = {"frozen", "slots", "kw_only", "repr", "maxsize", "strict", "stacklevel", "weakref_slot"}
LOGS = {"debug", "info", "warning", "error", "exception", "warn"}


@dataclass(frozen=True)
class Mutant:
    """One change: where it stands, the function (none: it runs at import), the lines that show it, the whole file with it."""

    file: str
    function: str
    line: int
    before: str
    after: str
    shown: range
    whole: str

    @property
    def change(self) -> str:
        return " ".join(f"{self.before} → {self.after}".split())

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.change}"


def joins(node: ast.BinOp) -> bool:
    """Whether an operator joins a path or text, so that any other one would only raise."""
    parts = (node.left, node.right)
    return any(isinstance(part, ast.JoinedStr) or isinstance(getattr(part, "value", None), str) for part in parts)


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The node, changed in one place; nothing for nodes that are left alone."""
    new: Any = copy.copy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in COMPARE:
        new.ops = [COMPARE[type(new.ops[0])](), *new.ops[1:]]
        yield new
    elif isinstance(new, ast.BinOp) and type(new.op) in OPERATE and not joins(new):
        new.op = OPERATE[type(new.op)]()
        yield new
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        yield new
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not | ast.Invert | ast.USub):
        yield new.operand
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool):
        new.value = not new.value
        yield new
    elif isinstance(new, ast.Constant) and isinstance(new.value, int | float):
        new.value += 1
        yield new


def behaves(node: Any) -> Iterator[Any]:
    """The parts of a node that decide what the code does: no types, no words of errors and logs, no guards."""
    called = getattr(getattr(node, "func", None), "attr", None)
    if isinstance(node, ast.JoinedStr | ast.Raise) or called in LOGS or getattr(node, "name", None) == "__repr__":
        return
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for name, value in ast.iter_fields(node):
        for part in value if isinstance(value, list) else [value]:
            guard = isinstance(part, ast.keyword) and part.arg in GUARDS
            if isinstance(part, ast.AST) and name not in ("annotation", "returns") and not guard:
                yield part


def walk(node: Any, shown: range, imported: range, function: str, path: str) -> Iterator[tuple[Any, range, str]]:
    """Every part below a node, with the lines whose execution shows it; the whole definition shows what runs at import.

    function: the outermost one that the node is in, by its qualified name; path: the definitions around it.
    """
    for part in behaves(node):
        inside, outside, own, below = shown, imported, function, path
        if not function and isinstance(node, ast.FunctionDef) and part in node.body:
            own = path
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            inside = outside = range(part.lineno, (part.end_lineno or 0) + 1)
            below = f"{path}.{part.name}".lstrip(".")
        elif isinstance(part, ast.stmt) and own:
            first = getattr(part, "body", None)
            end = first[0].lineno - 1 if isinstance(first, list) else part.end_lineno
            inside = range(part.lineno, max(part.lineno, end or 0) + 1)
        yield part, inside, own
        yield from walk(part, inside, outside, own, below)


def mutants(file: Path) -> Iterator[Mutant]:
    """All mutants of a file."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    everything = range(1, len(lines) + 1)
    for node, shown, function in walk(ast.parse(text), everything, everything, "", ""):
        for new in changes(node):
            a = len("".join(lines[: node.lineno - 1]).encode()) + node.col_offset
            b = len("".join(lines[: node.end_lineno - 1]).encode()) + node.end_col_offset
            after = ast.unparse(new)
            whole = (text.encode()[:a] + f"({after})".encode() + text.encode()[b:]).decode()
            before = ast.get_source_segment(text, node) or ""
            yield Mutant(str(file.relative_to(ROOT)), function, node.lineno, before, after, shown, whole)


class Trace:
    """Notes of every passed test its processor seconds and the lines of the files that it executes."""

    def __init__(self, copied: Path, files: set[str], notes: Path) -> None:
        self.files, self.notes = {str(copied / file): file for file in files}, notes
        self.lines: set[tuple[str, int]] = set()
        self.left_out: set[str] = set()
        self.wide: dict[str, set[tuple[str, int]]] = {}
        self.tests: dict[str, tuple[float, set[tuple[str, int]]]] = {}

    def trace(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        file = self.files.get(frame.f_code.co_filename)
        if file is None:
            return None
        self.lines.add((file, frame.f_lineno))
        return self.trace

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """Lines of a fixture that several tests share count for each of them."""
        before, self.lines = self.lines, set()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                self.wide[fixturedef.argname] = self.lines
            self.lines |= before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, object, object]:
        self.lines, start = set(), time.process_time()
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            lines = self.lines.union(*(self.wide.get(name, ()) for name in item.fixturenames))
            self.tests[item.nodeid] = (time.process_time() - start, lines)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.left_out.add(report.nodeid)

    def write(self) -> None:
        """To the notes."""
        known = json.loads(self.notes.read_text(encoding="utf-8")) if self.notes.is_file() else {}
        known |= {test: (seconds, sorted(lines)) for test, (seconds, lines) in self.tests.items() if test not in self.left_out}
        self.notes.write_text(json.dumps(known), encoding="utf-8")


class Trials:
    """Copy of the repository in which mutants are tried, one after the other, and what the trace found."""

    def __init__(self, folder: Path, notes: Path, seconds: float, timeout: float) -> None:
        self.copied, self.notes, self.seconds, self.timeout = folder / "copy", notes, seconds, timeout
        shutil.copytree(ROOT, self.copied, ignore=shutil.ignore_patterns(".git", ".venv", "results", "__pycache__"))
        self.took: dict[str, float] = {}
        self.shown: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.out = os.fdopen(os.dup(1), "w", encoding="utf-8")

    def read(self) -> None:
        """Read the findings of the trace."""
        known = json.loads(self.notes.read_text(encoding="utf-8")) if self.notes.is_file() else {}
        for test, (took, lines) in known.items():
            self.took[test] = took
            for file, line in lines:
                self.shown[file, line].add(test)

    def tests(self, mutant: Mutant) -> list[str]:
        """Tests that execute the mutant, the shortest first, in no more seconds than are given."""
        left, names = self.seconds, list[str]()
        found = set[str]().union(*(self.shown[mutant.file, line] for line in mutant.shown))
        for test in sorted(found, key=self.took.__getitem__):
            left -= self.took[test]
            if left > 0 or not names:
                names.append(test)
        return names

    def show(self, mutant: Mutant, run: Callable[[list[str]], int]) -> None:
        """Try a mutant; `run` gives 0 where the tests passed."""
        start, names = time.monotonic(), self.tests(mutant)
        original = (self.copied / mutant.file).read_text(encoding="utf-8")
        (self.copied / mutant.file).write_text(mutant.whole, encoding="utf-8")
        failed = self.forked(lambda: run(names)) if names else 0
        (self.copied / mutant.file).write_text(original, encoding="utf-8")
        verdict = "endless" if failed == signal.SIGALRM else "killed" if failed else "survived" if names else "unseen"
        self.out.write(f"{verdict} {mutant}  # {len(names)} tests, {time.monotonic() - start:.0f} s\n")
        self.out.flush()

    def forked(self, run: Callable[[], int], timeout: float = 0) -> int:
        """Exit code of `run` in a fork inside the copy; one that does not end is no 0."""
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1]
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(round(timeout or self.timeout))
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.chdir(self.copied)
        os.environ["PYTHONPATH"] = sys.path[0] = str(self.copied)
        sys.dont_write_bytecode = True
        code = 1
        try:
            code = run()
        finally:
            os._exit(code)


class Functions:
    """Tries mutants of functions in place of running the tests that pytest collected."""

    def __init__(self, trials: Trials, chosen: list[Mutant]) -> None:
        self.trials, self.chosen = trials, chosen

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.trials.read()
        self.trials.forked(lambda: self.traced(session), 3600)
        self.trials.read()
        for mutant in self.chosen:
            if mutant.function:
                self.trials.show(mutant, partial(self.changed, session, mutant))
        return True

    def traced(self, session: pytest.Session) -> int:
        trace = Trace(self.trials.copied, {mutant.file for mutant in self.chosen}, self.trials.notes)
        session.config.pluginmanager.register(trace)
        session.items[:] = [item for item in session.items if item.nodeid not in self.trials.took]
        runtestloop(session)
        trace.write()
        return 0

    def changed(self, session: pytest.Session, mutant: Mutant, names: list[str]) -> int:
        """Whether the named tests fail once the functions have the mutant's code; modules not imported yet have it anyway."""
        file = str(self.trials.copied / mutant.file)
        codes = {code.co_qualname: code for code in below(compile(mutant.whole, file, "exec", dont_inherit=True))}
        for known in gc.get_objects():
            code = known.__code__ if isinstance(known, FunctionType) else None
            if code and (code.co_filename, code.co_qualname) == (file, mutant.function):
                known.__code__ = codes[mutant.function]
        items = {item.nodeid: item for item in session.items}
        session.items[:] = [items[name] for name in names if name in items]
        session.config.option.maxfail = 1
        try:
            runtestloop(session)
        except session.Failed:
            return 1
        return int(session.testsfailed > 0)


def below(code: CodeType) -> Iterator[CodeType]:
    """All code inside code."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from below(one)


class Only:
    """Keeps the named tests, in their order."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        found = {item.nodeid: item for item in items}
        items[:] = [found[name] for name in self.names if name in found]


def pytest_run(tests: list[str], plugin: object) -> int:
    return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--assert=plain", *tests], plugins=[plugin]))


def imported(names: list[str]) -> int:
    """Whether the named tests fail where everything is imported anew."""
    return pytest_run(sorted({name.partition("::")[0] for name in names}), Only(names))


def tried_again(found: list[Mutant], earlier: Path) -> list[Mutant]:
    """The mutants that an earlier run did not kill, wherever their lines stand now."""
    out = []
    for text in earlier.read_text(encoding="utf-8").splitlines():
        verdict, _, rest = text.partition(" ")
        if verdict in ("survived", "unseen", "endless"):
            file, line, change = rest.split(":", 2)
            change = change.partition("  # ")[0].strip()
            same = [mutant for mutant in found if (mutant.file, mutant.change) == (file, change)]
            out.extend(sorted(same, key=lambda mutant: abs(mutant.line - int(line)))[:1])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("paths", nargs="+", help="files or folders of the package")
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=Path, help="output of an earlier run: try what it did not kill")
    parser.add_argument("--map", type=Path, help="file that keeps which lines each test executes; tests it lacks are traced")
    parser.add_argument("--seconds", type=float, default=20.0, help="processor seconds of the tests of one mutant, traced")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds until the tests of one mutant are stopped")
    here = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    asked, tests = parser.parse_args(sys.argv[1:here]), sys.argv[here + 1 :]
    files = [f for p in asked.paths for f in (sorted((ROOT / p).rglob("*.py")) if (ROOT / p).is_dir() else [ROOT / p])]
    found = [mutant for file in files for mutant in mutants(file)]
    chosen = random.Random(asked.seed).sample(found, min(asked.count, len(found)))
    if asked.again:
        chosen = tried_again(found, asked.again)
    for name in LARGE:
        with suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        notes = asked.map.resolve() if asked.map else Path(folder) / "map.json"
        trials = Trials(Path(folder).resolve(), notes, asked.seconds, asked.timeout)
        trials.forked(lambda: pytest_run(tests, Functions(trials, chosen)), 10**6)
        trials.read()
        for mutant in chosen:
            if not mutant.function:
                trials.show(mutant, imported)


if __name__ == "__main__":
    main()
