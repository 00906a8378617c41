"""A newcomer's first two minutes: a copy of the repository without .venv, `make demo`, twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """What a clone of the present working tree would hold."""
    if not (repository / ".git").exists():
        pytest.fail("this test copies what git lists, so it runs in a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    folder = tmp_path_factory.mktemp("clone") / "sdvar_exp"
    for name in filter(None, listed.split("\0")):
        if (repository / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, folder / name)
    return folder


def _make(folder: Path, *targets: str) -> str:
    """Output of make in a fresh environment: the tests' own path and worker variables are not passed on."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "OMP_NUM_THREADS"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden and not key.startswith("PYTEST_")}
    done = subprocess.run(["make", *targets], cwd=folder, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, f"make {targets}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.long
@pytest.mark.needs("weights")
def test_make_demo_works_twice_in_a_fresh_clone(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in clone.iterdir()}
    first = _make(clone, "demo")
    second = _make(clone, "demo")
    times = [re.search(r"setup (\d+) s.*, demo (\d+) s", output) for output in (first, second)]
    assert all(times), "make demo prints how long setup and demo took"
    with capsys.disabled():
        print(f"\nfresh clone: {times[0].group()}; again: {times[1].group()}")
    assert times[1].group(1) == "0", "the second setup has nothing to do"
    for name in ("tables", "figures", "images"):
        (folder,) = set(re.findall(rf"^{name} +(\S+)", first, re.MULTILINE))
        assert any((clone / folder).iterdir()), f"{folder} is named and has files"
    (page,) = re.findall(r"^page +(\S+)$", first, re.MULTILINE)
    assert f"file://{clone}/{page}" in first and "</html>" in (clone / page).read_text(encoding="utf-8")[-20:]
    left = {path.name for path in clone.iterdir()} - before
    assert left <= {".venv", "results"}, f"make demo left {sorted(left)} behind"
