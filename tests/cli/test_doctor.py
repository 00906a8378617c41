"""doctor: each finding, and a fix for every problem."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from sdvar_exp.cli import doctor

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _nobodys_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", "SDVAR_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)


def one(findings: list[doctor.Finding]) -> doctor.Finding:
    (finding,) = findings
    return finding


@pytest.mark.needs("weights")
def test_everything_is_looked_at(call: Call) -> None:
    code, out, _ = call("doctor", "--json")
    findings = {f["what"]: f for f in json.loads(out)}
    assert {
        "python",
        "packages",
        "torch",
        "threads",
        "disk",
        "embedded pair",
        "emoji pair",
        "checkpoints",
        "W&B",
        "fonts",
        "git",
        "wandb",
    } <= set(findings)
    assert findings["emoji pair"]["text"] == "loads; 9 stages, 9 classes"
    assert findings["embedded pair"]["text"] == "loads; 10 stages, 10 classes" and findings["fonts"]["state"] == "ok"
    assert code == int(any(f["state"] == "problem" for f in findings.values()))
    assert list(Path().iterdir()) == [], "nothing is left behind"


def test_a_package_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(list(doctor.packages())).state == "ok"
    true_version = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.1" if name == "pandas" else true_version(name))
    found = one(list(doctor.packages()))
    assert found.state == "problem" and "pandas 0.1 is not" in found.text and "constraints.txt" in found.fix


def test_a_results_folder_that_cannot_be_made() -> None:
    Path("results").write_text("a file")
    found = one(list(doctor.disk(Path("results"))))
    assert found.state == "problem" and "is not a folder" in found.text and "results_dir=" in found.fix


def test_checkpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("vae_ch160v4096z32.pth", "var_d16.pth", "var_d30.pth"):
        (tmp_path / name).write_bytes(b"PK\3\4")
    monkeypatch.setenv("SDVAR_CHECKPOINTS", str(tmp_path))
    there, partly = doctor.checkpoints()
    assert (there.state, there.text) == ("ok", f"var_d16_d30 in {tmp_path}")
    assert partly.state == "note" and "lacks" in partly.text and "SDVAR_CHECKPOINTS" in partly.fix
    (tmp_path / "var_d16.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    pointer, *rest = doctor.checkpoints()
    assert all(found.state == "note" for found in rest), "a pair with a file that is none is not complete"
    assert pointer.state == "problem" and "var_d16.pth" in pointer.text and "git-lfs pointer" in pointer.text


def test_git_and_an_importable_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [None, {"commit": "c" * 40, "dirty": True}]
    monkeypatch.setattr("sdvar_exp.store.provenance.git_state", lambda: states.pop())
    assert one(list(doctor.git())).text == "commit cccccccccccc, with changes that runs keep as a difference"
    assert one(list(doctor.git())).state == "note"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert "missing" in one(list(doctor.git())).text
    answers: list[Any] = [subprocess.TimeoutExpired("x", 1), (1, "", "a\nImportError: no protobuf\n"), (0, "0.31\n", "")]

    def run(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
        if isinstance(answer := answers.pop(), Exception):
            raise answer
        return subprocess.CompletedProcess(command, *answer)

    monkeypatch.setattr(doctor.subprocess, "run", run)
    assert one(list(doctor.wandb_import())).text == "0.31 can be imported"
    found = one(list(doctor.wandb_import()))
    assert (found.state, found.text) == ("problem", "cannot be imported: ImportError: no protobuf") and found.fix
    assert "took more than" in one(list(doctor.wandb_import())).text


def test_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert one(list(doctor.wandb_login())).state == "note"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert one(list(doctor.wandb_login())).state == "problem"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    found = one(list(doctor.wandb_login()))
    assert found.state == "ok" and "secret" not in found.text
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert "0000" not in one(list(doctor.wandb_login())).text


def test_a_problem_sets_the_exit_code_and_prints_its_fix(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("cannot open it")

    monkeypatch.setattr(doctor, "checks", lambda results: [doctor.python, broken])
    code, out, _ = call("doctor")
    assert code == 1 and "PROBLEM  broken: OSError: cannot open it\n         fix: " in out
