"""Hydra's own sweepers: jobs get what a command of their own would mean, and return the objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from sdvar_exp.cli import main
from sdvar_exp.config import compose, multirun
from sdvar_exp.errors import UserError
from sdvar_exp.metrics.quantities import objectives
from sdvar_exp.plan import Plan
from sdvar_exp.report.objective import objective_of
from sdvar_exp.report.summary import columns
from sdvar_exp.store import Study
from tests.store.making import FINGERPRINT, unit_body

SEEN: dict[str, Any] = {}


class Bisecting(Sweeper):
    """Looks for the smallest value of an interval by golden thirds: a stand-in for an optimising sweeper."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        parsed = OverridesParser.create().parse_overrides(arguments)
        (swept,) = [o for o in parsed if o.is_interval_sweep()]
        fixed = [o.input_line for o in parsed if not o.is_sweep_override()]
        low, high = swept.value().start, swept.value().end
        for n in range(self.rounds):
            thirds = (low + (high - low) / 3, high - (high - low) / 3)
            jobs = [[*fixed, f"{swept.key_or_group}={v}"] for v in thirds]
            first, second = (job.return_value for job in self.launcher.launch(jobs, initial_job_idx=2 * n))
            SEEN.setdefault("values", []).extend([first, second])
            low, high = (low, thirds[1]) if first < second else (thirds[0], high)
        SEEN["best"] = (low + high) / 2


@pytest.fixture
def bisecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The sweeper as an installed plugin would bring it."""
    monkeypatch.setitem(Plugins.instance().class_name_to_class, "hydra_plugins.bisecting.Bisecting", Bisecting)
    node = {"_target_": "hydra_plugins.bisecting.Bisecting", "rounds": 5}
    ConfigStore.instance().store("bisecting", node, group="hydra/sweeper", provider="test")
    SEEN.clear()
    yield SEEN
    del ConfigStore.instance().repo["hydra"]["sweeper"]["bisecting.yaml"]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Plans of the jobs. Their one unit has a difference that is smallest at τ = 0.3; `study=failing` fails."""
    seen: list[Plan] = []

    def run_study(plan: Plan, console: object) -> int:
        seen.append(plan)
        with Study(plan.folder).open(plan, FINGERPRINT) as study:
            for planned in plan.cells:
                assert planned.cell.acceptance is not None
                tau = planned.cell.acceptance.params.tau
                study.append(
                    unit_body(
                        planned.cell.id,
                        3,
                        0,
                        pixel_mae=abs(tau - 0.3),
                        target_rows=10,
                        target_rows_alone=10,
                        draft_rows=1,
                        draft_rows_alone=1,
                        token_agreement=1.0,
                        committed_by_verify=3,
                    )
                )
        return int(plan.study == "failing")

    monkeypatch.setattr("sdvar_exp.runner.run_study", run_study)
    return seen


WORDS = ["labels=[3]", "seeds=1", "objective=pixel_mae"]


@pytest.mark.long
def test_an_optimising_sweeper_finds_the_best(bisecting: dict[str, Any], runner: list[Plan]) -> None:
    assert main(["run", "-m", "hydra/sweeper=bisecting", "acceptance.tau=interval(0.0,0.9)", *WORDS]) == 0
    taus = [plan.cells[0].cell.acceptance.params.tau for plan in runner]  # type: ignore[union-attr]
    assert taus[:2] == pytest.approx([0.3, 0.6]) and bisecting["values"] == pytest.approx([abs(t - 0.3) for t in taus])
    assert len(taus) == 10 and bisecting["best"] == pytest.approx(0.3, abs=0.06)
    assert [p.name for p in Path().iterdir()] == ["results"], "nothing outside results_dir"


def test_a_job_is_what_the_same_words_mean(bisecting: dict[str, Any], runner: list[Plan]) -> None:
    assert (
        main(["run", "hydra/sweeper=bisecting", "hydra.sweeper.rounds=1", "acceptance.tau=interval(0,0.9)", *WORDS, "study=s"])
        == 0
    )
    first = compose([*WORDS, "study=s", f"acceptance.tau={runner[0].cells[0].cell.acceptance.params.tau}"])  # type: ignore[union-attr]
    assert first.cells[0].cell == runner[0].cells[0].cell and first.folder == runner[0].folder
    assert len(list(Path("results/s/cells").glob("*.json"))) == 2, "both jobs in one study"


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_the_models_may_be_a_factor_where_the_reference_names_one(
    plus: str, bisecting: dict[str, Any], runner: list[Plan]
) -> None:
    words = ["acceptance.tau=0.2", *WORDS, f"{plus}reference.model=embedded", "reference.cfg_schedule.cfg=2"]
    assert main(["run", "-m", "hydra/sweeper=basic", "model=embedded_plain,embedded", *words]) == 0
    assert [plan.cells[0].cell.model.name for plan in runner] == ["embedded_plain", "embedded"]
    references = [plan.reference for plan in runner]
    assert {(r.model.name, r.cfg_schedule.params.cfg) for r in references if r} == {
        ("embedded", 2.0)
    } and None not in references


def test_hydras_basic_sweeper(runner: list[Plan]) -> None:
    assert main(["run", "-m", "hydra/sweeper=basic", "acceptance.tau=0.2,0.3", "gamma.value=2,3", *WORDS]) == 0
    assert [
        (p.cells[0].cell.acceptance.params.tau, p.cells[0].cell.gamma.params.value)  # type: ignore[union-attr]
        for p in runner
    ] == [(0.2, 2), (0.2, 3), (0.3, 2), (0.3, 3)]


def test_mistakes_are_one_line(runner: list[Plan], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-m", "hydra/sweeper=bisectnig", "acceptance.tau=0.2,0.3"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "bisectnig" in err and "hydra-optuna-sweeper" in err
    assert main(["run", "-m", "hydra/sweeper=basic", "strategy=sequential,test3", "strategy.entry_nmu=3"]) == 2
    assert "entry_nmu" in capsys.readouterr().err
    assert main(["run", "hydra/sweeper=basic", "--failed"]) == 2
    assert "--only and --failed do not go with" in capsys.readouterr().err
    assert not runner


def test_a_job_that_failed_is_one_for_the_sweeper(bisecting: dict[str, Any], runner: list[Plan]) -> None:
    with pytest.raises(RuntimeError, match="exit code 1"):
        main(["run", "hydra/sweeper=bisecting", "acceptance.tau=interval(0,0.9)", *WORDS, "study=failing"])


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["hydra/sweeper=optuna"], True),
        (["hydra.sweeper.n_trials=3"], True),
        (["hydra/launcher=joblib"], True),
        (["hydra.launcher.n_jobs=2"], True),
        (["+hydra.sweeper.params.x=1"], False),
        (["-m", "gamma.value=2,3"], False),
    ],
)
def test_when_hydra_sweeps(words: list[str], asked: bool) -> None:
    assert multirun.wanted(words) is asked


def test_objectives_are_columns_of_the_summary(lines: Callable[..., list[str]]) -> None:
    assert set(objectives()) <= set(columns())
    assert lines("objective=pixel_mea") == ["unknown objective 'pixel_mea'; did you mean 'pixel_mae'?"]
    assert objective_of(compose([])) is None


@pytest.mark.parametrize(
    ("contended", "says"),
    [
        (0, "has no value in .*; time some units: timing.units=8$"),
        (3, "has no value in .*: images were timed only beside another process"),
    ],
)
def test_a_speed_up_that_is_missing_says_why(monkeypatch: pytest.MonkeyPatch, contended: int, says: str) -> None:
    """A search by time beside another run is not told to time units, which it did."""
    from sdvar_exp.report import objective

    row = pd.DataFrame({"speedup": [None], "contended": [contended]})
    monkeypatch.setattr(objective, "summarise", lambda _: row)
    monkeypatch.setattr(objective, "own_rows", lambda *_: None)
    monkeypatch.setattr("sdvar_exp.store.load_tables", lambda *_, **__: None)
    with pytest.raises(UserError, match=says):
        objective_of(compose(["objective=speedup", "timing.units=3"]))
