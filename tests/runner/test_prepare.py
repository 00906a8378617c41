"""Bad input is refused before anything is written; baselines are added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdvar_exp.cell import Cell, Noise, Sampling
from sdvar_exp.decoding.options import OnReject
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan
from sdvar_exp.registry import choose
from sdvar_exp.runner.measuring.prepare import baseline_name, prepare, with_baselines
from tests.runner.conftest import CELLS, load_tiny, loop, simple

MakePlan = Callable[..., Plan]
Run = Callable[..., tuple[int, str]]


def names(plan: Plan) -> list[str]:
    return [p.name for p in plan.cells]


def test_a_missing_baseline_comes_first_and_is_named(plan: MakePlan) -> None:
    full, added = with_baselines(plan({"draft_only": CELLS["draft_only"]}))
    assert names(full) == ["sequential", "draft_only"] and added == ("sequential",)


def test_one_baseline_per_guidance_and_sampling(plan: MakePlan) -> None:
    constant = choose("cfg_schedule", "constant", cfg=2.0)
    cold = replace(simple("draft_only"), sampling=Sampling(temperature=0.5))
    apart = replace(loop(), sampling=Sampling(noise=Noise.independent))
    cells = {"a": simple("draft_only"), "b": simple("draft_only", constant), "c": cold, "d": apart}
    full, added = with_baselines(plan(cells))
    assert added == ("sequential", "sequential constant cfg=2", "sequential temperature=0.5")
    assert len({p.cell.id for p in full.cells}) == 7


def test_a_baseline_in_the_plan_is_not_added_and_duplicates_collapse(plan: MakePlan) -> None:
    full, added = with_baselines(plan({**CELLS, "again": simple("sequential")}))
    assert names(full) == list(CELLS) and added == ()


def test_a_batched_sequential_is_not_its_own_baseline(plan: MakePlan) -> None:
    full, _ = with_baselines(plan({"sequential B=2": replace(simple("sequential"), batch=2)}))
    assert names(full) == ["sequential", "sequential B=2"]


def test_names_of_baselines() -> None:
    assert baseline_name(simple("sequential", choose("cfg_schedule", "linear", cfg=3.0))) == "sequential cfg=3"
    assert baseline_name(simple("sequential", choose("cfg_schedule", "off"))) == "sequential off"


def test_each_model_is_loaded_once(plan: MakePlan) -> None:
    loaded = []
    prepare(plan(), lambda *spec: loaded.append(spec) or load_tiny(*spec))
    assert len(loaded) == 1


def test_threads_are_fixed_and_in_the_fingerprint(plan: MakePlan) -> None:
    made = prepare(plan(threads=2), load_tiny)
    assert torch.get_num_threads() == 2 and made.fingerprint["threads"] == 2
    assert made.fingerprint["device_kind"] == "cpu" and made.fingerprint["dtype"] == "float32"


BAD: dict[str, tuple[dict, str]] = {
    "label": ({"labels": (0, 10)}, r"label must lie in 0 … 9, got 10"),
    "entry": ({"cells": {"x": simple("test3", entry_num=6)}}, r"x: strategy.entry_num must lie in 0 … 5, got 6"),
    "gamma": ({"cells": {"x": loop(gamma=6)}}, r"x: gamma.value must lie in 1 … 5, got 6"),
    "redraft in batches": (
        {"cells": {"x": loop(rule="match_rate", batch=2, on_reject=OnReject.redraft)}},
        r"x: on_reject=redraft .* batch=1",
    ),
    "engine": ({"engine": "cloud"}, r"engine must be one of inprocess, pool, slurm, got 'cloud'"),
    "device": ({"device": "tpu"}, r"device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
    "no cells": ({"cells": {}}, r"the plan has no cells"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_written(case: str, plan: MakePlan, run: Run, tmp_path: Path) -> None:
    settings, message = BAD[case]
    with pytest.raises(UserError, match=message):
        run(plan(**settings))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(plan: MakePlan, run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PyTorch sees no CUDA GPU"):
        run(plan(device="cuda"))
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written(plan: MakePlan, run: Run, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UserError, match="cannot be made"):
        run(plan())
    assert (tmp_path / "results").read_text() == "a file"


def test_a_cell_keeps_its_normal_form() -> None:
    cell = Cell(choose("strategy", "draft_only"), acceptance=choose("acceptance", "exact"))
    assert cell.id == cell.normalised().id
