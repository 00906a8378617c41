"""Sample mutants of a folder and run tests on each: which changes of the code would nobody see?

    python scripts/mutants.py sdvar_exp/decoding --count 150 --seed 1 -- tests/decoding -m "not long" -q -x

A mutant is one comparison, operator, constant or condition changed in a copy of the repository; survivors are printed.
The tests of each run in a fork of this process, which has imported the large packages already.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LARGE = ("torch", "hypothesis")  # without threads of their own, so that forks are safe
COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
OPERATE = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The node, changed in one place; nothing for nodes that are left alone."""
    new: Any = copy.copy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in COMPARE:
        new.ops = [COMPARE[type(new.ops[0])](), *new.ops[1:]]
        yield new
    elif isinstance(new, ast.BinOp) and type(new.op) in OPERATE:
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


def mutants(file: Path) -> list[tuple[int, str, str, str]]:
    """(line, code before, code after, the whole file) of every mutant of a file."""
    text, out = file.read_text(encoding="utf-8"), []
    node: Any
    for node in ast.walk(ast.parse(text)):
        for new in changes(node):
            before = ast.get_source_segment(text, node) or ""
            after = ast.unparse(new)
            lines = text.splitlines(keepends=True)
            a = len("".join(lines[: node.lineno - 1]).encode()) + node.col_offset
            b = len("".join(lines[: node.end_lineno - 1]).encode()) + node.end_col_offset
            whole = (text.encode()[:a] + f"({after})".encode() + text.encode()[b:]).decode()
            try:
                ast.parse(whole)
            except SyntaxError:  # inside an f-string
                continue
            out.append((node.lineno, before, after, whole))
    return out


def killed(copied: Path, tests: list[str], timeout: float) -> bool:
    """Whether the tests fail on the copy; one that does not end counts as killed."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(round(timeout))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.chdir(copied)
    os.environ["PYTHONPATH"] = sys.path[0] = str(copied)
    sys.dont_write_bytecode = True
    code = 1
    try:
        code = int(pytest.main(["-p", "no:cacheprovider", "--assert=plain", *tests]))
    finally:
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("paths", nargs="+", help="files or folders of the package")
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for the tests of one mutant")
    here = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    asked, tests = parser.parse_args(sys.argv[1:here]), sys.argv[here + 1 :]
    files = [f for p in asked.paths for f in (sorted((ROOT / p).rglob("*.py")) if (ROOT / p).is_dir() else [ROOT / p])]
    found = [(file.relative_to(ROOT), *mutant) for file in files for mutant in mutants(file)]
    chosen = random.Random(asked.seed).sample(found, min(asked.count, len(found)))
    for name in LARGE:
        importlib.import_module(name)
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "copy"
        shutil.copytree(ROOT, copied, ignore=shutil.ignore_patterns(".git", ".venv", "results", "__pycache__"))
        if killed(copied, tests, asked.timeout):
            sys.exit("the tests fail on the code as it is: choose others")
        for file, line, before, after, whole in chosen:
            original = (copied / file).read_text(encoding="utf-8")
            (copied / file).write_text(whole, encoding="utf-8")
            if not killed(copied, tests, asked.timeout):
                survivors += 1
                sys.stdout.write(f"survived: {file}:{line}: {before} → {after}\n")
                sys.stdout.flush()
            (copied / file).write_text(original, encoding="utf-8")
    sys.stdout.write(f"{len(chosen) - survivors} of {len(chosen)} killed ({len(found)} possible)\n")


if __name__ == "__main__":
    main()
