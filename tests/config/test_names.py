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
        ("acceptance.tau=0.7 acceptance.repair=true", "parallel_v1 match_rate τ=0.7 repair γ=2"),
        ("acceptance=exact strategy.on_reject=continue", "parallel_v1 exact continue γ=2"),
        ("acceptance=exact strategy.bonus=true", "parallel_v1 exact bonus γ=2"),
        ("strategy=dynamic_gamma", "dynamic_gamma match_rate τ=0.5 aimd"),
        (
            "strategy=dynamic_gamma gamma.start=3 gamma.decrease=halve",
            "dynamic_gamma match_rate τ=0.5 aimd start=3 decrease=halve",
        ),
        ("strategy=hybrid strategy.verify_until=3", "hybrid until=3 match_rate τ=0.5 γ=2"),
        ("cfg_schedule.cfg=3", "parallel_v1 match_rate τ=0.5 γ=2 cfg=3"),
        ("cfg_schedule=constant cfg_schedule.cfg=3", "parallel_v1 match_rate τ=0.5 γ=2 constant cfg=3"),
        ("cfg_schedule=off", "parallel_v1 match_rate τ=0.5 γ=2 cfg=off"),
        ("sampling=var batch=4", "parallel_v1 match_rate τ=0.5 γ=2 top_k=900 top_p=0.95 B=4"),
        ("sampling.temperature=0.9 sampling.noise=independent", "parallel_v1 match_rate τ=0.5 γ=2 T=0.9 independent"),
        ("model=var_d16_d30", "parallel_v1 match_rate τ=0.5 γ=2 var_d16_d30"),
        ("acceptance=always", "parallel_v1 always γ=2"),
        ("acceptance=typical", "parallel_v1 typical ε=0.1 α=0.3 τ=0.9 γ=2"),
        ("strategy=model_schedule strategy.stages=T6e4", "model_schedule T6 e4 exit=4"),
        ("strategy=model_schedule strategy.stages=T8s2 strategy.exit_depth=2", "model_schedule T8 s2"),
        ("model.autocast=bfloat16", "parallel_v1 match_rate τ=0.5 γ=2 autocast=bfloat16"),
    ],
)
def test_name(argv: str, name: str) -> None:
    (planned,) = compose(argv.split()).cells
    assert planned.name == name


def test_an_option_that_one_cell_reads_is_in_no_other_name() -> None:
    stages = "[['strategy.stages=T6e4','strategy.exit_depth=4,5'],['strategy.stages=T6D4']]"
    names = [planned.name for planned in compose(["strategy=model_schedule", f"cells={stages}"]).cells]
    assert names == ["model_schedule T6 e4 exit=4", "model_schedule T6 e4 exit=5", "model_schedule T6 D4"]


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


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("strategy=test3 mask=block_causal,block_diagonal", ["block_causal", "block_diagonal"]),
        ("acceptance.repair=true,false", ["repair", "no repair"]),
        ("cfg_schedule=linear,off", ["linear", "cfg=off"]),
        ("cfg_schedule.cfg=1.5,3", ["cfg=1.5", "cfg=3"]),
        ("sampling.temperature=1,0.9", ["T=1", "T=0.9"]),
        ("sampling.noise=shared,independent", ["shared", "independent"]),
        ("batch=1,4", ["B=1", "B=4"]),
        ("model.autocast=none,bfloat16", ["autocast=none", "autocast=bfloat16"]),
        ("model.execution=eager,compile", ["eager", "compile"]),
        ("proposer=draft,target_at_depth", ["proposer=draft", "proposer=target_at_depth"]),
        ("strategy=sequential model=var_d16_d30 model.draft=a.pth,b.pth", ["draft=a.pth", "draft=b.pth"]),
    ],
)
def test_what_differs_is_in_every_name(argv: str, words: list[str]) -> None:
    names = [planned.name for planned in compose(argv.split()).cells]
    assert len(names) == len(words)
    for name, word in zip(names, words, strict=True):
        assert f" {word}" in name and (f" {word} " in f"{name} "), name


def test_equal_names_end_in_the_cells_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdvar_exp.config.names._name", lambda *_: "same")
    cells = [planned.cell for planned in compose(["strategy=test3", "mask=block_causal,block_diagonal"]).cells]
    assert [c.name for c in compose(["strategy=test3", "mask=block_causal,block_diagonal"]).cells] == [
        f"same #{cell.id[:4]}" for cell in cells
    ]
