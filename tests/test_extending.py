"""The package of docs/extending.md, file by file: built, installed beside the wheel in a fresh environment, and run.

Nothing here is written twice: the files are the page's blocks, so that the page cannot go stale.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.docs.pages import blocks
from tests.test_wheel import wheel  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.long, pytest.mark.needs("weights")]
KINDS = {
    "cfg_schedule": "late",
    "mask": "coarse",
    "gamma": "half",
    "acceptance": "unsure",
    "strategy": "by_turns",
    "proposer": "early",
}
ALL = [
    "strategy=by_turns,dynamic_gamma",
    "acceptance=unsure",
    "gamma=half",
    "mask=coarse",
    "cfg_schedule=late",
    "labels=[0]",
    "seeds=1",
    "images=none",
    "timing.units=0",
    "tracking=none",
    "results_dir=out",
]
COMMON = ("labels", "seeds", "images", "timing.units", "tracking", "results_dir")
Run = Callable[..., str]


def run_at(folder: Path, *command: str, code: int = 0) -> str:
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("mine")
    for block in blocks("docs/extending.md"):
        if "file" in block.says:
            path = folder / block.says["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The bin folder of an environment that has the wheel alone; dependencies come from the one of the tests, without its
    sdvar_exp: a path that a .pth file names is searched, its own .pth files are not read."""
    folder = tmp_path_factory.mktemp("fresh")
    run_at(folder, sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"))
    python = folder / "venv/bin/python"
    site = run_at(folder, str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    places = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (Path(site) / "dependencies.pth").write_text("\n".join(places) + "\n")
    install(python, wheel)
    where = run_at(folder, str(python), "-P", "-c", "import sdvar_exp; print(sdvar_exp.__file__)").strip()
    assert where.startswith(site), f"the tests would run {where}, not the wheel"
    return python.parent


def install(python: Path, path: Path) -> None:
    run_at(
        python.parent,
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(path),
    )


def check_own_rounds(folder: Path) -> None:
    """Rounds of a strategy with parameters of its own, under `exact`: the target's tokens, in fewer rounds than stages.

    Calls are those of the rounds and those of the proposer `early`, which asks the target itself in later rounds.
    """
    samples, runs = (pd.read_csv(folder / f"out/lossless/tables/{name}.csv") for name in ("samples", "runs"))
    assert dict(zip(runs["strategy"], runs["lossless"], strict=True)) == {"sequential": "tokens", "doubling": "tokens"}
    row = samples[samples["cell"] == runs.set_index("strategy").loc["doubling", "cell"]].iloc[0]
    assert row["token_agreement"] == 1 and row["verify_calls"] < 10
    trace = [int(g) for g in str(row["gamma_trace"]).split(",")]
    assert trace[0] == 1 and max(trace) in (2, 4) and len(trace) == row["verify_calls"] < row["target_calls"]


def check_rows(folder: Path) -> None:
    """What the five did: calls by turns; γ half of what is left; their names and parameters in the tables."""
    (study,) = folder.glob("out/*")
    samples, runs = pd.read_csv(study / "tables/samples.csv"), pd.read_csv(study / "tables/runs.csv").set_index("strategy")
    of = {name: samples[samples["cell"] == runs.loc[name, "cell"]].iloc[0] for name in ("by_turns", "dynamic_gamma")}
    assert (of["by_turns"]["target_calls"], of["by_turns"]["draft_calls"]) == (5, 5)
    assert (of["by_turns"]["feature_distance"] > 0) == (not of["by_turns"]["identical"])
    first = [int(g) for g in str(of["dynamic_gamma"]["gamma_trace"]).split(",")]
    assert first[0] == 5 and all(g >= 1 for g in first)
    row = runs.loc["dynamic_gamma"]
    words = [str(row[kind]).split("(")[0] for kind in ("mask", "acceptance", "gamma", "cfg_schedule", "lossless")]
    assert words == ["coarse", "unsure", "half", "late", "no"]


def test_with_plugins_from_a_folder(fresh: Path, mine: Path) -> None:
    """Nothing installed but the wheel: `plugins=[…]` and `--config-dir` from the folder that holds both."""
    script = str(fresh / "sdvar-exp")
    config = ["--config-dir", "my_conf"]
    assert "γ = ⌈stages left ÷ 2⌉" in run_at(mine, script, "ls", "gamma", "half", "--plugin", "my_entries", *config)
    run_at(mine, script, "run", "plugins=[my_entries]", *config, *ALL, "study=plugins")
    check_rows(mine)
    shown = run_at(mine, script, "table", "out/plugins", "--plugin", "my_entries", "--markdown")
    assert "feature distance" in shown and "feature distance" not in run_at(mine, script, "table", "out/plugins", "--markdown")
    own = [
        "strategy=doubling",
        "acceptance=exact",
        "proposer=early",
        *[word for word in ALL if "=" in word and word.split("=")[0] in COMMON],
    ]
    run_at(mine, script, "run", "plugins=[my_entries]", *config, *own, "study=lossless")
    check_own_rounds(mine)
    said = run_at(
        mine,
        script,
        "run",
        "plugins=[my_entries]",
        *config,
        "gamma=half",
        "strategy=dynamic_gamma",
        "gamma.leest=2",
        "acceptance=unsure",
        "acceptance.tau=2",
        code=2,
    )
    assert "did you mean 'least'?" in said and "acceptance.tau must lie in [0, 1], got 2.0" in said


def test_installed_with_an_entry_point(fresh: Path, mine: Path, tmp_path: Path) -> None:
    """Built and installed as a package of its own: there without `plugins`, listed with the rest, run from elsewhere."""
    script = str(fresh / "sdvar-exp")
    unknown = run_at(tmp_path, script, "plan", "strategy=by_turns", code=2)
    assert "by_turns" in unknown, "not installed yet"
    run_at(mine, sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path / "dist"), str(mine))
    (built,) = (tmp_path / "dist").glob("*.whl")
    install(fresh / "python", built)
    for kind, name in KINDS.items():
        assert f"  {name}" in run_at(tmp_path, script, "ls", kind)
        assert f"/schema/{kind}/{name}@_here_" in run_at(tmp_path, script, "ls", kind, name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_at(elsewhere, script, "run", *ALL, "study=installed")
    check_rows(elsewhere)
    run_at(elsewhere, script, "run", "--config-dir", str(mine / "my_conf"), *ALL, "study=installed")
    assert len(pd.read_csv(elsewhere / "out/installed/tables/samples.csv")) == 3, "with its yamls the cells are the same"
