"""docs/reference.md says what the registry holds."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from scripts.reference import render, with_metrics
from sdvar_exp import registry
from sdvar_exp.metrics.quantities import own

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"


def test_the_page_is_in_step() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run python scripts/reference.py"


def test_the_tables_of_metrics_are_those_of_the_registry() -> None:
    """docs/metrics.md: write it anew with `python scripts/reference.py`."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert with_metrics(page) == page
    for m in own():
        assert m.says and m.formula, f"{m.name} must say in its docstring and formula what it is"
        assert f"| `{m.name}` | {m.formula} |" in page or not (m.measured or m.summarised)


def test_every_entry_has_a_line_with_a_description() -> None:
    page = render()
    for kind in registry.KINDS:
        for name in registry.names(kind):
            entry = registry.get(kind, name)
            if entry.function.__module__.startswith("sdvar_exp."):
                assert f"| `{name}` |" in page and entry.doc


def test_an_edited_plugin_is_another_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: None) -> None:
    """An entry from outside the project carries the hash of its file; the project's own carry none."""
    file = tmp_path / "hashed_rule.py"
    text = "from sdvar_exp.registry import register\n\n"
    text += '@register("acceptance", "hashed")\ndef hashed(_, view):\n    """A rule."""\n'
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = []
    for body in ("    return 1\n", "    return 22\n"):
        file.write_text(text + body)
        importlib.invalidate_caches()
        importlib.reload(importlib.import_module("hashed_rule"))
        seen.append(registry.choose("acceptance", "hashed").as_dict()["source"])
    assert seen[0] != seen[1] and all(len(s) == 16 for s in seen)
    assert "source" not in registry.choose("acceptance", "exact").as_dict()
