"""The wheel is complete: built from the sdist, installed in a folder of its own, run from an empty one."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """sdist, then the wheel from it, with the build backend that is installed: no network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(repository)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the console script of the installed wheel; dependencies come from the environment of the tests."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True, timeout=300)

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-P"] if arguments[0] == "-c" else [str(site / "bin/sdvar-exp")]
        environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "160"}
        done = subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    where = run("-c", "import sdvar_exp; print(sdvar_exp.__file__)").stdout
    assert where.startswith(str(site)), f"the tests would run {where}, not the wheel"
    return run


def test_wheel_contains_configs_and_code_alone(wheel: Path, repository: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"sdvar_exp/conf/{path.relative_to(repository / 'conf')}" for path in repository.glob("conf/**/*.yaml")}
    assert configs and configs <= names, f"missing: {sorted(configs - names)}"
    stray = {name for name in names if not name.startswith("sdvar_exp/") and ".dist-info/" not in name}
    assert not stray, f"the wheel would install {sorted(stray)} beside the package"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_contains_the_weights(wheel: Path, repository: Path) -> None:
    folder = repository / "sdvar_exp/models/weights"
    weights = {f"sdvar_exp/models/weights/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    assert any(name.endswith(".safetensors") for name in weights), "the repository has no weights to ship"
    assert weights <= set(zipfile.ZipFile(wheel).namelist())


def test_installed_wheel_lists_and_plans(installed: Run) -> None:
    assert "parallel_v1" in installed("ls").stdout
    planned = installed("plan", "strategy=parallel_v1", "labels=[3]", "seeds=1")
    assert "parallel_v1" in planned.stdout
    assert not list(Path.cwd().iterdir()), "a plan writes nothing"


@pytest.mark.long
@pytest.mark.needs("weights")
def test_installed_wheel_runs_from_an_empty_folder(installed: Run) -> None:
    installed(
        "run", "study=tiny", "strategy=parallel_v1", "labels=[3]", "seeds=1", "images=none", "tracking=none",
        "timing.units=1", "timing.repeats=1",
    )  # fmt: skip
    assert [path.name for path in Path.cwd().iterdir()] == ["results"], "all that a run writes is under results/"
    assert (Path("results/tiny/tables/samples.csv")).read_text().count("parallel_v1") >= 1
