"""Imports point one way, and whatever plans or reports leaves torch out."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "sdvar_exp"

BASE = {"errors", "guest", "pyramid", "registry", "cell", "plan"}
# Part -> parts that it may import. pyramid → models → decoding → metrics → store → report; the runner knows all.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "guest": {"errors"},
    "pyramid": {"errors"},
    "registry": {"errors"},
    "cell": {"errors", "registry"},
    "plan": {"cell"},
    "models": BASE,
    "decoding": BASE | {"models"},
    "training": BASE | {"models", "decoding", "metrics", "report"},  # of report only how figures look
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
# The one file of config that knows training: only scripts/train.py imports it.
EXCEPTIONS = {"config/training.py": {"training"}}
TORCH_FREE = ("errors", "guest", "pyramid", "registry", "cell", "plan", "config", "store", "report", "cli", "api", "engines")


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
        if name not in MAY_IMPORT[part] | EXCEPTIONS.get(str(file.relative_to(PACKAGE)), set())
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


@pytest.mark.parametrize("part", [part for part in TORCH_FREE if part in _parts()])
def test_part_imports_no_torch(part: str) -> None:
    modules = [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in _files(part)
        if file.name != "__main__.py" and str(file.relative_to(PACKAGE)) not in EXCEPTIONS
    ]
    assert "torch" not in _modules_after("\n".join(f"import {name}" for name in modules))


def test_a_table_imports_no_matplotlib() -> None:
    code = "from sdvar_exp.report import render_table, summarise\nimport sdvar_exp.cli.table"
    assert "matplotlib" not in _modules_after(code)
    assert "matplotlib" in _modules_after("from sdvar_exp.report import write_figures")


def test_discovery_imports_no_torch() -> None:
    """Planning reads the registry, so the files of all entries import no torch either."""
    loaded = _modules_after("from sdvar_exp import registry\nregistry.discover()\nassert registry.names('strategy')")
    assert "torch" not in loaded


@pytest.mark.parametrize("part", [part for part in ("runner",) if part in _parts()])
def test_the_runner_never_imports_wandb(part: str) -> None:
    """W&B lives in a child process: a server that hangs costs a sweep nothing."""
    assert "wandb" not in _modules_after(f"import sdvar_exp.{part}")
