"""The Python API: light to import, equal to the command line, honest about failures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sdvar_exp
from sdvar_exp import Study, load_results
from sdvar_exp.api import RunFailed
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan
from sdvar_exp.store import Study as Store
from tests.store.making import FINGERPRINT, unit_body

Call = Callable[..., tuple[int, str, str]]


def test_importing_the_package_loads_nothing(repository: Path) -> None:
    code = (
        "import sys, sdvar_exp\nassert 'Study' in sdvar_exp.__all__\n"
        "heavy = {'torch', 'pandas', 'hydra', 'omegaconf', 'wandb', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from sdvar_exp import Study\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, timeout=60)
    with pytest.raises(AttributeError):
        sdvar_exp.Studdy  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.needs("weights")
def test_it_equals_the_command_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words through both doors: the same stable tables, byte for byte, and the same rows."""
    monkeypatch.setattr("sdvar_exp.runner.running.finish.write_figures", lambda *_, **__: [])
    words = [
        "strategy=sequential,parallel_v1",
        "acceptance=exact",
        "labels=[1]",
        "seeds=1",
        "timing.units=0",
        "images=none",
        "tracking=none",
        "device=cpu",
        "threads=1",
    ]
    code, _, err = call("run", *words, "study=shell")
    assert code == 0, err
    study = Study(words, study="python")
    frame = study.run()
    for table in ("samples", "stages", "runs"):
        assert study.stable_csv(table) == call("table", "shell", "--stable", table)[1]
    assert list(frame["name"]) == ["sequential", "parallel_v1 exact γ=2"] == list(study.cells.values())
    assert frame["identical"].all() and list(frame["gamma_value"].dropna()) == [2]
    again = load_results("results/python", where="strategy == 'parallel_v1'")
    assert list(again["cell"]) == [frame["cell"][1]]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """A runner that writes one made-up row per unit. Exit code: 1 for `study=failing`, 130 for `study=stopped`."""
    seen: list[Plan] = []
    fake: Any = ModuleType("sdvar_exp.runner")

    def run_study(plan: Plan, console: Any) -> int:
        seen.append(plan)
        console.print("what it printed")
        with Store(plan.folder).open(plan, FINGERPRINT) as study:
            units = [(label, seed) for label in plan.labels for seed in plan.seeds]
            study.append(*(unit_body(p.cell.id, *unit) for p in plan.cells for unit in units))
        return {"failing": 1, "stopped": 130}.get(plan.study, 0)

    fake.run_study = run_study
    monkeypatch.setitem(sys.modules, "sdvar_exp.runner", fake)
    return seen


def test_results_are_those_of_the_words(runner: list[Plan], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A study may hold more than one asked for."""
    Study(["strategy=sequential", "seeds=3"], results_dir=tmp_path).run()
    second = Study(["strategy=test3", "labels=[3]", "seeds=[1]"], results_dir=tmp_path)
    assert second.folder == tmp_path / "default" and not (tmp_path / "default/cells" / "x").exists()
    frame = second.run()
    assert frame[["strategy", "label", "seed"]].to_numpy().tolist() == [["test3", 3, 1]]
    assert len(load_results(tmp_path)) == 3 * 3 + 1 and capsys.readouterr().out == ""
    assert runner[1].argv == ("strategy=test3", "labels=[3]", "seeds=[1]", f"results_dir='{tmp_path}'")


def test_the_table_and_its_view_in_a_notebook(runner: list[Plan], tmp_path: Path) -> None:
    words = ["strategy=sequential,test3", "labels=[3]", "seeds=2"]
    study = Study(words, study="shown", results_dir=tmp_path)
    assert "test3 K=5" in study._repr_html_() and "shown: nothing run yet" in study._repr_html_()
    study.run()
    table = study.table()
    assert list(table["name"]) == ["sequential", "test3 K=5"] and list(table["n"]) == [2, 2]
    assert {"pixel_mae", "pixel_mae_low", "pixel_mae_high", "target_calls"} <= set(table)
    html = study._repr_html_()
    assert html.startswith("<table>") and "<td>test3 K=5</td>" in html and "n = 2 images" in html
    assert len(study.results(table="stages")) > 0 and list(study.results(table="runs")["strategy"]) == ["sequential", "test3"]


def test_failures_are_raised(runner: list[Plan]) -> None:
    with pytest.raises(RunFailed, match=r"results/failing failed with exit code 1\nwhat it printed"):
        Study(study="failing").run()
    assert len(Study(study="failing").run(check=False)) == 12
    with pytest.raises(KeyboardInterrupt):
        Study(study="stopped").run()


def test_mistakes_are_raised_before_anything_runs(runner: list[Plan]) -> None:
    with pytest.raises(UserError, match="did you mean 'test3'"):
        Study(["strategy=tset3"])
    with pytest.raises(UserError, match=r"a list of words, not one text; write \['strategy=test3', 'seeds=2'\]"):
        Study("strategy=test3 seeds=2")
    assert not runner and not list(Path().iterdir())


def test_objective(runner: list[Plan]) -> None:
    study = Study(["objective=pixel_mae", "strategy=sequential"])
    with pytest.raises(UserError, match="there is no study"):
        study.objective()
