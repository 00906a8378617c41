"""Searching for a front: several objectives, those of image sets among them, reach a sweeper as one tuple."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from sdvar_exp.cli import main
from sdvar_exp.config import compose
from sdvar_exp.errors import UserError
from sdvar_exp.report.objective import objective_of
from sdvar_exp.report.quality import Real, quality_value
from sdvar_exp.store.features import CellFeatures, read_features

SEEN: list[Any] = []
SMALL = ["labels=[1]", "seeds=2", "threads=1", "batch=1", "objective=[target_token_forwards,class_accuracy]"]


class Listing(Sweeper):
    """Tries the values of its `params` one after another and keeps what each job returned."""

    def __init__(self, params: dict[str, str]) -> None:
        self.params = params

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        jobs = [[*arguments, "cfg_schedule.cfg=1.5", f"strategy.stages={stages}"] for stages in ("D10", "T9D1")]
        SEEN.extend(job.return_value for job in self.launcher.launch(jobs, initial_job_idx=0))


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Plugins.instance().class_name_to_class, "hydra_plugins.listing.Listing", Listing)
    node = {"_target_": "hydra_plugins.listing.Listing", "params": {}}
    ConfigStore.instance().store("listing", node, group="hydra/sweeper", provider="test")
    SEEN.clear()
    yield
    del ConfigStore.instance().repo["hydra"]["sweeper"]["listing.yaml"]


@pytest.mark.long
@pytest.mark.needs("weights")
@pytest.mark.usefixtures("listing")
def test_trials_of_the_search_are_cells_of_one_study_and_return_every_objective() -> None:
    assert main(["run", "-m", "experiment=search", "hydra/sweeper=listing", *SMALL]) == 0
    assert [rows for rows, _ in SEEN] == [0.0, pytest.approx(285 / 385)]
    found = read_features("results/search", {(1, 0), (1, 1)})
    assert len(found) == 3, "both trials and the reference"
    assert all(len(cell.labels) == 2 for cell in found.values()) and not read_features("results/search", {(1, 7)})
    for stages, objectives in zip(("D10", "T9D1"), SEEN, strict=True):
        plan = compose(["strategy=model_schedule", f"strategy.stages={stages}", "study=search", *SMALL])
        cell = found[plan.cells[0].cell.id]
        assert cell.predicted is not None and objectives[1] == (cell.predicted == cell.labels).mean()
        assert objective_of(plan) == objectives
    with pytest.raises(UserError, match="needs at least 640 images a cell, there are 2: more seeds, as a number or a list"):
        objective_of(
            compose(["strategy=model_schedule", "strategy.stages=D10", "study=search", *SMALL[:-1], "objective=fd_real"])
        )


def test_without_a_sweeper_the_search_is_every_combination() -> None:
    plan = compose(["experiment=search"])
    assert len(plan.cells) == 60 and plan.settings.objective == ("target_token_forwards", "fd_real", "class_accuracy")


def test_distances_as_objectives() -> None:
    rng = np.random.Generator(np.random.Philox(key=7))
    features, labels = rng.standard_normal((80, 8)).astype(np.float32), np.repeat([0, 1], 40)
    real = Real(np.concatenate([features + 0.5, features[:9] + 40]), np.concatenate([labels, np.full(9, 2)]), "net")
    cell = CellFeatures(labels, labels % 2 * 0, features, labels, features - 1, "net")
    assert quality_value("fd_real", cell, real) == pytest.approx(8 * 0.25, rel=1e-3), (
        "classes that were not asked for are left out"
    )
    assert quality_value("fd_baseline", cell, real) == pytest.approx(8, rel=1e-3)
    assert quality_value("class_accuracy", cell, real) == 0.5
    with pytest.raises(UserError, match="of another classifier"):
        quality_value("fd_real", replace(cell, digest="other"), real)
    with pytest.raises(UserError, match="names no classes"):
        quality_value("class_accuracy", replace(cell, predicted=None), real)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("objective=[pixel_mae,fd_rael]", "unknown objective 'fd_rael'; did you mean 'fd_real'?"),
        ("objective=[]", "objective=[] names nothing; leave it out, or list columns"),
        ("objective=[3]", "unknown objective 3; choose one of "),
        ("objective={a: 1}", "unknown objective {"),
    ],
)
def test_unknown_objectives_are_named(word: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([word])
    assert says in str(caught.value) and "\n" not in str(caught.value)
