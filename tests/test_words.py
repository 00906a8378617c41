"""Words of messages: guesses, plurals, spans, times, sizes, choices and what changed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sdvar_exp
from sdvar_exp import registry
from sdvar_exp.words import choices_text, count, did_you_mean, duration, roughly, size, span


def test_what_was_meant() -> None:
    assert did_you_mean("gama", ["gamma", "mask"]) == "; did you mean 'gamma'?"
    assert did_you_mean("xyz", ["gamma"]) == "" and did_you_mean("xyz", [], "it has none") == "; it has none"
    assert choices_text(("a", "b")) == "choose one of a, b" and choices_text(iter("ab"), "use") == "use a, b"


def test_numbers_of_things() -> None:
    assert [count(n, "cell") for n in (0, 1, 2)] == ["0 cells", "1 cell", "2 cells"]
    assert span([5, 5]) == "5" and span([8, 5, 6]) == "5 to 8"
    with pytest.raises(ValueError, match="at least one"):
        span([])


def test_times_and_sizes() -> None:
    assert [duration(s) for s in (0.4, 59.6, 200, 7500)] == ["0 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]
    assert [roughly(s) for s in (0.1, 89, 720, 12600)] == ["1 s", "89 s", "12 min", "3.5 h"]
    assert [size(b) for b in (120_000, 3_400_000, 12e9)] == ["120 kB", "3.4 MB", "12.0 GB"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"name": "never"}, "never"),
        ({"name": "fixed", "value": 2}, "fixed(2)"),
        (
            {"name": "match_rate", "tau": 0.5, "repair": False, "mode": "coupled"},
            "match_rate(tau=0.5, repair=false, mode=coupled)",
        ),
        ({"temperature": 1.0, "top_k": 0}, "temperature=1.0, top_k=0"),
        (None, "none"),
        (4, "4"),
    ],
)
def test_a_choice_has_one_text(value: object, text: str) -> None:
    assert registry.choice_text(value) == text


def test_changes_of_nested_data() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": {"e": 1}}, {"a": {"b": 1, "c": 3}, "d": None, "f": 0}
    assert registry.changes(old, new) == [("a.c", 2, 3), ("d", {"e": 1}, None), ("f", None, 0)]
    assert registry.changes(old, old) == []


def test_no_other_module_guesses_or_forms_plurals() -> None:
    """One home: no other module imports difflib, or writes an s behind a number itself."""
    folder = Path(sdvar_exp.__file__).parent
    for file in folder.rglob("*.py"):
        tree = ast.parse(text := file.read_text(encoding="utf-8"))
        modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        if file.name != "words.py" or file.parent != folder:
            assert "difflib" not in modules and "== 1 else 's'}" not in text.replace("{'s' if", ""), file
