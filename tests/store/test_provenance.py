"""Where results come from, without saying what is secret."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdvar_exp import registry
from sdvar_exp.store import code_version, fingerprint, provenance, redact, session_record
from sdvar_exp.store.ledger import decode, encode
from sdvar_exp.store.provenance import without_home
from tests.store.making import make_cells

ENVIRONMENT = {"WANDB_API_KEY": "5ecret5ecret", "DB_PASSWORD": "hunter22", "HOME": "/nowhere/somebody", "MY_TOKEN": "abc"}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["run", "seeds=4", "labels=[0,3]"], ["run", "seeds=4", "labels=[0,3]"]),
        (["tracking.api_key=xyz", "+wandb.token=q", "~x"], ["tracking.api_key=***", "+wandb.token=***", "~x"]),
        (["--api-key", "xyz", "--token=abc", "--verbose"], ["--api-key", "***", "--token=***", "--verbose"]),
        (["--password", "--verbose"], ["--password", "--verbose"]),
        (["note=5ecret5ecret!", "x=hunter22"], ["note=***!", "x=***"]),
        (["url=https://me:pw@host/x"], ["url=https://***@host/x"]),
        (["key=hf_abcdefghijklmnopqr", "wandb_v1_" + "a" * 40], ["key=***", "***"]),
        (["sampling.top_k=abc", "gamma=token_budget"], ["sampling.top_k=abc", "gamma=token_budget"]),
        (["gamma.n_tokens=3"], ["gamma.n_tokens=3"]),
    ],
)
def test_redact(words: list[str], shown: list[str]) -> None:
    assert redact(words, ENVIRONMENT) == shown


@pytest.mark.parametrize("names", [("A_TOKEN", "B_TOKEN"), ("B_TOKEN", "A_TOKEN")])
def test_of_secrets_inside_each_other_the_longest_goes_first(names: tuple[str, str]) -> None:
    """Were the short one hidden first, the rest of the long one would stay to be read."""
    environ = dict(zip(names, ("abcdef", "abcdefGHIJKL"), strict=True))
    assert redact(["x=abcdefGHIJKL", "y=abcdef"], environ) == ["x=***", "y=***"]


def test_a_session_record_goes_into_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "5ecret5ecret")
    record = session_record(["run", "x=5ecret5ecret"], device="cpu")
    line = encode(record)
    assert b"5ecret" not in line and decode(line) == record
    assert record["type"] == "session" and record["device"] == "cpu" and record["code"] == code_version()
    assert record["packages"]["numpy"] and record["hardware"]["cores"] >= 1


def test_fingerprint_names_what_decides() -> None:
    made = fingerprint({"embedded": {"vae": "a"}}, "cpu", "float32", 2, attention="sdpa")
    assert made["packages"].keys() >= {"torch", "numpy"} and "pandas" not in made["packages"]
    assert made["code"] == code_version() and made["attention"] == "sdpa" and made["threads"] == 2


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[str, Callable[[str], str]], str]:
    """edited(path, change): the code version of a copy of the package in which one file is changed."""
    package = tmp_path / "sdvar_exp"
    shutil.copytree(provenance.PACKAGE, package, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    provenance.code_version.cache_clear()
    assert code_version(package) == code_version()

    def version(path: str, change: Callable[[str], str]) -> str:
        file = package / path
        before = file.read_text(encoding="utf-8") if file.exists() else None
        file.write_text(change(before or ""), encoding="utf-8")
        provenance.code_version.cache_clear()
        try:
            return code_version(package)
        finally:
            file.unlink() if before is None else file.write_text(before, encoding="utf-8")

    return version


@pytest.mark.parametrize(
    ("path", "change", "counts"),
    [
        ("pyramid.py", lambda s: s.replace("\n", "\r\n"), False),
        ("pyramid.py", lambda s: s + "\n# a comment\n", False),
        ("decoding/sampling.py", lambda s: re.sub(r'^"""[^"]*"""', '"""Other words."""', s), False),
        ("decoding/session.py", lambda s: s.replace("\n\n\n", "\n\n# why\n\n\n"), False),
        ("metrics/power.py", lambda s: s + "\nX = 1\n", False),
        ("store/new.py", lambda s: "x = 1\n", False),
        ("decoding/new.py", lambda s: "x = 1\n", False),
        ("decoding/acceptance/new.py", lambda s: "x = 1\n", False),
        ("decoding/acceptance/standard.py", lambda s: s + "\nX = 1\n", False),
        ("decoding/sampling.py", lambda s: s + "\nX = 1\n", True),
        ("models/var.py", lambda s: s + "\nX = 1\n", True),
        ("models/classifier.py", lambda s: s + "\nX = 1\n", True),
        ("decoding/acceptance/__init__.py", lambda s: s + "\nX = 1\n", False),
        ("runner/measuring/features.py", lambda s: s + "\nX = 1\n", True),
    ],
)
def test_code_version_follows_what_code_does_where_it_decides(
    path: str, change: Callable[[str], str], counts: bool, edited: Callable[..., str]
) -> None:
    """A comment, a docstring, a power planner, a new or another rule: no row changes."""
    assert (edited(path, change) != code_version()) == counts


RULES = '''"""Two rules in one file."""
from sdvar_exp.registry import register
LIMIT = 1

@register("acceptance", "one", doc="a")
def one(_, view):
    """First."""
    return LIMIT

@register("acceptance", "two")
def two(_, view):
    return 2
'''


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("return 2", "return 3", False),
        ('"""First."""', '"""Other words."""', False),
        ('doc="a"', 'doc="b"', False),
        ("LIMIT = 1", "LIMIT = 2  # a constant", True),
        ("LIMIT = 1", "LIMIT = 1  # a constant", False),
        ("    return LIMIT", "    return LIMIT + 1", True),
        ("def two(_, view):\n    return 2", "def two(_, view):\n    return 2\n\ndef helper():\n    pass", True),
    ],
)
def test_an_entry_counts_by_its_own_code(
    old: str, new: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file without other entries, docstrings, comments, and what it declares about itself."""
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for number, text in enumerate((RULES, RULES.replace(old, new))):
        assert text.count("register(") == 2
        (tmp_path / f"rules_{number}.py").write_text(text)
        with monkeypatch.context() as patch:
            patch.setattr(registry, "_entries", {**registry._entries})
            monkeypatch.delitem(sys.modules, f"rules_{number}", raising=False)
            __import__(f"rules_{number}")
            found.append(provenance.definition(registry.get("acceptance", "one")))
    assert (found[0] != found[1]) == counts


def test_files_that_an_entry_uses_beside_its_own_count_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper in the folder of the rules, which registers nothing."""
    folder = tmp_path / "sdvar_exp" / "decoding" / "acceptance"
    folder.mkdir(parents=True)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "sdvar_exp")
    (folder / "own.py").write_text("from sdvar_exp.decoding.acceptance.helper import LIMIT\n")
    entry = registry.Entry("acceptance", "own", registry.Empty, lambda: None)
    monkeypatch.setattr(provenance.inspect, "getsourcefile", lambda _: str(folder / "own.py"))
    found = set()
    for text in ("LIMIT = 1\n", "LIMIT = 1  # a constant\n", "LIMIT = 2\n"):
        (folder / "helper.py").write_text(text)
        found.add(provenance.definition(entry))
    assert len(found) == 2
    monkeypatch.undo()
    typed = {}
    for value in (1, 1, 2):  # functions that no file holds, as of a notebook
        made: dict[str, Any] = {}
        exec(f"def own(x): return x {'+' * value} 1", made)
        typed.setdefault(value, set()).add(
            provenance.definition(registry.Entry("acceptance", "own", registry.Empty, made["own"]))
        )
    assert [len(one) for one in typed.values()] == [1, 1] and all(re.fullmatch("[0-9a-f]{16}", *one) for one in typed.values())


def test_definitions_are_of_what_cells_use_and_of_metrics_of_rows() -> None:
    """Of normal cells: what a strategy does not read is left out. What is computed from rows of tables is no part of a row."""
    cells = [planned.cell for planned in make_cells()]
    chosen = ["acceptance=match_rate", "cfg_schedule=linear", "gamma=fixed", "mask=block_causal"]
    chosen += [f"strategy={name}" for name in ("parallel_v1", "sequential", "test3")]
    found = provenance.definitions(cells)
    assert sorted(name for name in found if not name.startswith("metric=")) == chosen
    assert "metric=pixel_mae" in found and "metric=speedup" not in found
    assert found["gamma=fixed"] == provenance.definition(registry.get("gamma", "fixed"))
    assert sorted(provenance.definitions(cells, metrics=False)) == chosen
    assert list(provenance.definitions(cells[:1], metrics=False)) == ["cfg_schedule=linear", "strategy=sequential"]


def test_git_state_is_of_the_checkout_that_tracks_the_package(tmp_path: Path) -> None:
    package = tmp_path / "checkout" / "sdvar_exp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git = ["git", "-C", str(tmp_path / "checkout"), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    assert provenance.git_state(package) is None
    subprocess.run([*git, "init", "-q"], check=True)
    assert provenance.git_state(package) is None, "not tracked: an environment in somebody's checkout"
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    state = provenance.git_state(package)
    assert state is not None and len(state["commit"]) == 40 and state["dirty"] is False and "diff_sha256" not in state
    assert "untracked" not in state
    (package / "__init__.py").write_text("changed")
    (package / "own.py").write_text("")
    dirty = provenance.git_state(package)
    assert dirty is not None and dirty["dirty"] is True and len(dirty["diff_sha256"]) == 64
    assert dirty["untracked"] == ["sdvar_exp/own.py"]


def test_store_imports_neither_torch_nor_wandb() -> None:
    code = (
        "import sys, pkgutil, importlib, sdvar_exp.store as s\n"
        "[importlib.import_module(f'sdvar_exp.store.{m.name}') for m in pkgutil.iter_modules(s.__path__)]\n"
        "import sdvar_exp.tracking\n"
        "sys.exit(bool({'torch', 'wandb'} & set(sys.modules)))"
    )
    root = str(provenance.PACKAGE.parent)
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, check=False).returncode == 0


def test_the_home_folder_is_not_told() -> None:
    environ = {"HOME": "/users/ada"}
    words = [
        "results_dir=/users/ada/runs",
        "--config-dir",
        "/users/ada",
        "x=/users/adam/y",
        "/data/users/ada/z",
        "a='/users/ada':b",
    ]
    assert redact(words, environ) == [
        "results_dir=~/runs",
        "--config-dir",
        "~",
        "x=/users/adam/y",
        "/data/users/ada/z",
        "a='~':b",
    ]
    assert redact(["/a/b"], {"HOME": "/a"}) == ["~/b"]
    assert redact(["/a"], {"HOME": "/"}) == redact(["/a"], {}) == ["/a"]
    assert without_home('  File "/users/ada/sdvar/x.py", line 3', environ) == '  File "~/sdvar/x.py", line 3'
