"""Messages for users: those in the source, with `…` for what is filled in, and those that docs/errors.md explains."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.docs.pages import ROOT

PACKAGE = ROOT / "sdvar_exp"
IN_CONFIG = r"_?(check|apply|unknown|same_files)"
"""Functions that return what is wrong; elsewhere those called `_refusal`."""


def _kinds(trees: dict[Path, ast.Module]) -> set[str]:
    """`UserError` and every class derived from it."""
    bases = {
        node.name: {ast.unparse(b).split(".")[-1] for b in node.bases}
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    kinds = {"UserError"}
    while more := {name for name, of in bases.items() if of & kinds} - kinds:
        kinds |= more
    return kinds


def _texts(node: ast.expr) -> list[str]:
    """The texts that an expression of literals can give; none where a variable gives the whole message."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [a + b for a in _texts(node.left) or ["…"] for b in _texts(node.right) or ["…"]]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    return []


def _said(tree: ast.Module, kinds: set[str], config: bool) -> list[tuple[int, ast.expr]]:
    """Line and expression of each message: raised, required, noted in a list of errors, or returned as a problem."""
    found: list[tuple[int, ast.expr]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func)
            if name.split(".")[-1] in kinds or name.endswith("errors.append"):
                found.append((node.lineno, node.args[0]))
            elif name.split(".")[-1] == "require" and len(node.args) > 1:
                found.append((node.lineno, node.args[1]))
        elif isinstance(node, ast.FunctionDef) and re.match(IN_CONFIG if config else "_refusal", node.name):
            problems = node.returns is not None and ast.unparse(node.returns) in ("str", "str | None")
            found += [(r.lineno, r.value) for r in ast.walk(node) if problems and isinstance(r, ast.Return) and r.value]
    return found


def messages() -> dict[str, str]:
    """Every message of the package and where it is said."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    kinds = _kinds(trees)
    out: dict[str, str] = {}
    for path, tree in trees.items():
        for line, node in _said(tree, kinds, "config" in path.parts):
            for text in _texts(node):
                if re.search(r"\w", text.replace("…", "")):
                    out.setdefault(text, f"{path.relative_to(ROOT)}:{line}")
    return out


def explained() -> list[str]:
    """Messages in the first column of the tables of docs/errors.md."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?) \| ", page, re.MULTILINE)
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]
