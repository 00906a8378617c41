"""Short names: what differs from the defaults, and different for different cells."""

from __future__ import annotations

import pytest

from sdvar_exp.config import compose


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ("strategy=sequential", "sequential"),
        ("strategy=test3", "test3 K=5"),
        ("strategy=test3 mask=block_diagonal", "test3 K=5 block_diagonal"),
        ("strategy=test3 mask=local_stages mask.window=2", "test3 K=5 local_stages w=2"),
        ("acceptance=exact gamma.value=3", "parallel_v1 exact γ=3"),
        ("acceptance.tau=0.7 acceptance.repair=true", "parallel_v1 τ=0.7 repair γ=2"),
        ("acceptance=exact strategy.on_reject=continue", "parallel_v1 exact continue γ=2"),
        ("acceptance=exact strategy.bonus=true", "parallel_v1 exact bonus γ=2"),
        ("strategy=dynamic_gamma", "dynamic_gamma aimd"),
        ("strategy=dynamic_gamma gamma.start=3 gamma.decrease=halve", "dynamic_gamma aimd start=3 decrease=halve"),
        ("strategy=hybrid strategy.verify_until=3", "hybrid until=3 γ=2"),
        ("cfg_schedule.cfg=3", "parallel_v1 γ=2 cfg=3"),
        ("cfg_schedule=constant cfg_schedule.cfg=3", "parallel_v1 γ=2 constant cfg=3"),
        ("cfg_schedule=off", "parallel_v1 γ=2 cfg=off"),
        ("sampling=var batch=4", "parallel_v1 γ=2 top_k=900 top_p=0.95 B=4"),
        ("sampling.temperature=0.9 sampling.noise=independent", "parallel_v1 γ=2 T=0.9 independent"),
        ("model=var_d16_d30", "parallel_v1 γ=2 var_d16_d30"),
    ],
)
def test_name(argv: str, name: str) -> None:
    (planned,) = compose(argv.split()).cells
    assert planned.name == name


def test_names_of_a_plan_differ() -> None:
    plan = compose(
        [
            "strategy=test3,parallel_v1,dynamic_gamma",
            "mask=block_causal,local_stages",
            "acceptance=kl,exact",
            "gamma=fixed",
            "gamma.value=2,3",
            "cfg_schedule=linear,off",
        ]
    )
    assert len({planned.name for planned in plan.cells}) == len(plan.cells)


def test_pairs_of_one_name_are_told_apart() -> None:
    plan = compose(["strategy=sequential", "model=var_d16_d30", "model.draft=a.pth,b.pth"])
    first, second = (planned.name for planned in plan.cells)
    assert first == "sequential var_d16_d30" and second.startswith(first + " #")
