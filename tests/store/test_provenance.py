"""Where results come from, without saying what is secret."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sdvar_exp.store import code_version, fingerprint, provenance, redact, session_record
from sdvar_exp.store.ledger import decode, encode

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


def test_code_version_follows_the_deciding_sources_only(tmp_path: Path) -> None:
    package = tmp_path / "sdvar_exp"
    shutil.copytree(provenance.PACKAGE, package, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    same = code_version(package)
    assert same == code_version()

    def changed(path: str, text: str) -> bool:
        (package / path).write_text(text)
        code_version.cache_clear()
        return code_version(package) != same

    assert not changed("store/new.py", "x = 1\n") and not changed("models/notes.txt", "x")
    pyramid = (package / "pyramid.py").read_text()
    assert not changed("pyramid.py", pyramid.replace("\n", "\r\n"))
    assert changed("pyramid.py", pyramid + "\n")
    assert not changed("pyramid.py", pyramid)
    assert changed("decoding/new.py", "")


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
    (package / "__init__.py").write_text("changed")
    dirty = provenance.git_state(package)
    assert dirty is not None and dirty["dirty"] is True and len(dirty["diff_sha256"]) == 64


def test_store_imports_neither_torch_nor_wandb() -> None:
    code = (
        "import sys, pkgutil, importlib, sdvar_exp.store as s\n"
        "[importlib.import_module(f'sdvar_exp.store.{m.name}') for m in pkgutil.iter_modules(s.__path__)]\n"
        "import sdvar_exp.tracking\n"
        "sys.exit(bool({'torch', 'wandb'} & set(sys.modules)))"
    )
    root = str(provenance.PACKAGE.parent)
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, check=False).returncode == 0
