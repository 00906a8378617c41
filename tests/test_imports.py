"""Imports point one way, and whatever plans or reports leaves torch out."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "sdvar_exp"

BASE = {"errors", "words", "guest", "screen", "pyramid", "registry", "cell", "plan"}
# Part -> parts that it may import. pyramid → models → decoding → metrics → store → report; the runner knows all.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "words": set(),
    "guest": {"errors"},
    "screen": {"guest"},
    "pyramid": {"errors"},
    "registry": {"errors"},
    "cell": {"errors", "registry"},
    "plan": {"cell"},
    "models": BASE,
    "decoding": BASE | {"models"},
    "training": BASE | {"models", "decoding", "metrics", "report", "config"},  # of report only how figures look
    "diagnosis": BASE | {"models", "decoding"},
    "compat": BASE | {"models", "decoding", "training", "diagnosis"},
    "metrics": BASE,
    "store": BASE | {"decoding", "metrics"},  # of decoding only what imports no torch, see below
    "tracking": BASE | {"store", "metrics"},
    "report": BASE | {"metrics", "store"},
    "config": BASE | {"metrics"},  # of metrics only what imports no SciPy
    "runner": BASE | {"models", "decoding", "metrics", "store", "tracking", "report", "diagnosis"},
    "engines": BASE | {"store", "runner"},  # of runner only what imports no torch, see below
    "cli": BASE | {"config", "store", "metrics", "tracking", "report", "runner", "models", "api", "engines", "diagnosis"},
    "api": BASE | {"config", "store", "report", "runner"},
}
TORCH_FREE = (
    "errors",
    "words",
    "guest",
    "screen",
    "pyramid",
    "registry",
    "cell",
    "plan",
    "config",
    "store",
    "report",
    "cli",
    "api",
    "engines",
)


def _parts() -> list[str]:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return sorted(folders | {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"})


def _files(part: str) -> list[Path]:
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


def _imported(tree: ast.AST, own: str) -> set[tuple[str, int]]:
    """Parts of sdvar_exp that a module imports, with the line; lazy imports and those for types count too."""
    found: set[tuple[str, int]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [node.module or ""]
            if node.module == "sdvar_exp":
                names = [f"sdvar_exp.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {(name.split(".")[1], node.lineno) for name in names if name.startswith("sdvar_exp.")}
    return {(part, line) for part, line in found if part not in {own, "__version__"}}


def test_every_part_has_its_place() -> None:
    unknown = set(_parts()) - set(MAY_IMPORT)
    assert not unknown, f"say in MAY_IMPORT what these may import: {sorted(unknown)}"


@pytest.mark.parametrize("part", _parts())
def test_imports_point_one_way(part: str) -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)}:{line} imports {name}"
        for file in _files(part)
        for name, line in sorted(_imported(ast.parse(file.read_text()), part))
        if name not in MAY_IMPORT[part]
    ]
    assert not wrong, "; ".join(wrong)


def test_a_wrong_import_is_seen() -> None:
    """Negative control: the walk finds each form of import."""
    code = "import sdvar_exp.models.var\ndef f():\n    from sdvar_exp import runner\nfrom sdvar_exp.store.a import b\n"
    assert _imported(ast.parse(code), "report") == {("models", 1), ("runner", 3), ("store", 4)}


def _modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_these_parts_import_no_torch() -> None:
    """Nor does the running room: a coordinator starts without it, and what decodes is imported when a backend is made.

    Planning reads the registry, so the files of all entries import none either.
    """
    files = [file for part in TORCH_FREE for file in _files(part) if file.name != "__main__.py"]
    modules = [_name(file) for file in (*files, *(PACKAGE / "runner" / "running").glob("[!_]*.py"))]
    first = "import sys, importlib\nfor name in {0}:\n    importlib.import_module(name)\n    assert 'torch' not in sys.modules, name"
    more = "from sdvar_exp import registry\nregistry.discover()\nassert registry.names('strategy')"
    assert len(modules) > 100 and "torch" not in _modules_after(f"{first.format(modules)}\n{more}")


def _name(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _at_top(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run when the module is imported: not those in functions, nor those for types."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If | ast.Try | ast.With) and "TYPE_CHECKING" not in ast.unparse(
            getattr(node, "test", node.body[0])
        ):
            yield from _at_top([*node.body, *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())])


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Modules that each module imports at its top, from their texts by name; a name of a package is not its module."""
    graph: dict[str, set[str]] = {name: set() for name in sources}
    for name, text in sources.items():
        for node in _at_top(ast.parse(text).body):
            if isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            else:
                found = {n if (n := f"{node.module}.{alias.name}") in sources else node.module or "" for alias in node.names}
            graph[name] |= (found & sources.keys()) - {name}
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that lie on a circle: they remain when those that import none of the rest are taken away, both ways."""
    left = {name: set(found) for name, found in graph.items()}
    while True:
        imported = set().union(*left.values()) if left else set()
        ends = {name for name, found in left.items() if not found or name not in imported}
        if not ends:
            return sorted(left)
        left = {name: found - ends for name, found in left.items() if name not in ends}


def test_no_circle_of_modules() -> None:
    graph = import_graph({_name(file): file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")})
    assert len(graph) > 100 and sum(map(len, graph.values())) > 300 and not circles(graph)


def test_a_circle_is_seen() -> None:
    """Negative control: of three modules in a circle and two beside it, the three; not where one import is lazy or for types."""
    texts = {
        "p.a": "from p import b",
        "p.b": "if True:\n    import p.c",
        "p.c": "from p.a import x",
        "p.d": "import p.a",
        "p.e": "",
    }
    assert circles(import_graph(texts)) == ["p.a", "p.b", "p.c"]
    lazy = "def f():\n    from p.a import x"
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x"
    assert all(not circles(import_graph({**texts, "p.c": text})) for text in (lazy, typed))


def test_a_table_imports_no_matplotlib() -> None:
    code = "from sdvar_exp.report import render_table, summarise\nimport sdvar_exp.cli.table"
    assert "matplotlib" not in _modules_after(code)
    assert "matplotlib" in _modules_after("from sdvar_exp.report import write_figures")


@pytest.mark.parametrize("part", [part for part in ("runner",) if part in _parts()])
def test_the_runner_never_imports_wandb(part: str) -> None:
    """W&B lives in a child process: a server that hangs costs a sweep nothing."""
    assert "wandb" not in _modules_after(f"import sdvar_exp.{part}")
