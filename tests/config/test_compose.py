"""From a command line to a plan: precedence, sweeps, labels and seeds, cells of an experiment."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from sdvar_exp.cell import Noise
from sdvar_exp.config import compose, composing
from sdvar_exp.config.command import Command, load_entries
from sdvar_exp.config.composing import Composer, Tree, started
from sdvar_exp.config.folder import conf_folder
from sdvar_exp.config.overrides import Known, expand_all
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan

ISSUE = [
    "-m",
    "strategy=sequential,test3,parallel_v1,dynamic_gamma",
    "mask=block_causal,block_diagonal",
    "cfg_schedule=linear,constant",
    "labels=[0,3,8]",
    "seeds=4",
]


GOLDEN = {
    "sequential": "5ceb980fabaa",
    "draft_only": "06c36001ea9b",
    "test3": "337e6a49b8bb",
    "parallel_v1": "b9bfec50879f",
    "model_schedule": "56f1e053592b",
}


def names(plan: Plan) -> list[str]:
    return [planned.name for planned in plan.cells]


def test_the_main_command() -> None:
    plan = compose(ISSUE)
    assert names(plan) == [
        "sequential linear",
        "sequential constant",
        "test3 K=5 block_causal linear",
        "test3 K=5 block_causal constant",
        "test3 K=5 block_diagonal linear",
        "test3 K=5 block_diagonal constant",
        "parallel_v1 match_rate τ=0.5 γ=2 block_causal linear",
        "parallel_v1 match_rate τ=0.5 γ=2 block_causal constant",
        "parallel_v1 match_rate τ=0.5 γ=2 block_diagonal linear",
        "parallel_v1 match_rate τ=0.5 γ=2 block_diagonal constant",
        "dynamic_gamma match_rate τ=0.5 aimd block_causal linear",
        "dynamic_gamma match_rate τ=0.5 aimd block_causal constant",
        "dynamic_gamma match_rate τ=0.5 aimd block_diagonal linear",
        "dynamic_gamma match_rate τ=0.5 aimd block_diagonal constant",
    ]
    assert plan.labels == (0, 3, 8) and plan.seeds == (0, 1, 2, 3)
    assert plan.notices == ("16 combinations give 14 cells, 2 duplicates collapsed: sequential reads no mask",)
    assert plan.study == "default" and plan.results_dir == Path("results") and plan.folder == Path("results/default")


def test_multirun_flag_changes_nothing() -> None:
    assert compose(ISSUE).cells == compose(ISSUE[1:]).cells


def test_plain_command_is_one_cell() -> None:
    (planned,) = compose([]).cells
    cell = planned.cell
    assert (cell.strategy.name, cell.mask.name, cell.acceptance.name, cell.gamma.name) == (  # type: ignore[union-attr]
        "parallel_v1",
        "block_causal",
        "match_rate",
        "fixed",
    )
    assert cell.acceptance.params.tau == 0.5 and cell.acceptance.params.mode.value == "coupled"  # type: ignore[union-attr]


def test_composed_objects_are_the_entries_own() -> None:
    """Enums, tuples and frozen classes of the registry, not their schema twins."""
    from sdvar_exp.decoding.gamma.standard import Table
    from sdvar_exp.decoding.options import Loop, OnReject

    (planned,) = compose(
        [
            "strategy=dynamic_gamma",
            "strategy.on_reject=continue",
            "gamma=table",
            "gamma.values=[3,2,1]",
            "acceptance=exact",
            "sampling.noise=independent",
        ]
    ).cells
    assert type(planned.cell.strategy.params) is Loop
    assert planned.cell.strategy.params.on_reject is OnReject("continue")
    assert planned.cell.gamma is not None and planned.cell.gamma.params == Table((3, 2, 1))
    assert planned.cell.sampling.noise is Noise.independent


@pytest.mark.parametrize(("value", "draft_cfg"), [("same", "same"), ("off", "off"), ("2", 2.0), ("false", "off")])
def test_fields_of_any_type_are_normalised(value: str, draft_cfg: object) -> None:
    (planned,) = compose([f"strategy.draft_cfg={value}"]).cells
    assert planned.cell.strategy.params.draft_cfg == draft_cfg


def test_cell_id_is_independent_of_the_way() -> None:
    """`dynamic_gamma gamma=fixed` is `parallel_v1`; factors that are not read do not count."""
    plan = compose(["strategy=parallel_v1,dynamic_gamma", "gamma=fixed", "acceptance=exact"])
    assert names(plan) == ["parallel_v1 exact γ=2"]
    assert plan.notices == (
        "2 combinations give 1 cell, 1 duplicate collapsed: dynamic_gamma with these settings is parallel_v1",
    )
    (one,), (other,) = (compose(["strategy=test3", f"acceptance={a}"]).cells for a in ("exact", "never"))
    assert one.cell.id == other.cell.id


def test_unread_factor_is_said() -> None:
    assert compose(["strategy=test3", "gamma.value=3"]).notices == ("gamma.value=3 has no effect: test3 reads no gamma",)


class TestPrecedence:
    """The command line beats the experiment, the experiment beats the strategy, the strategy beats the root."""

    @pytest.fixture
    def conf(self, tmp_path: Path) -> Path:
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment/mine.yaml").write_text(
            "# @package _global_\ndefaults:\n  - override /strategy: dynamic_gamma\n  - override /gamma: token_budget\n"
            "  - _self_\ngamma:\n  tokens: 64\nseeds: 2\n"
        )
        return tmp_path

    def gamma(self, *argv: str) -> tuple[str, object]:
        (planned,) = compose(argv).cells
        assert planned.cell.gamma is not None
        return planned.cell.gamma.name, planned.cell.gamma.params

    def test_strategy_beats_root(self) -> None:
        assert self.gamma("strategy=dynamic_gamma")[0] == "aimd"

    def test_experiment_beats_strategy(self, conf: Path) -> None:
        name, params = self.gamma("--config-dir", str(conf), "experiment=mine")
        assert name == "token_budget" and params.tokens == 64  # type: ignore[attr-defined]

    def test_command_line_beats_experiment(self, conf: Path) -> None:
        name, params = self.gamma("--config-dir", str(conf), "experiment=mine", "gamma.tokens=32")
        assert name == "token_budget" and params.tokens == 32  # type: ignore[attr-defined]
        assert compose(["--config-dir", str(conf), "experiment=mine", "seeds=[7]"]).seeds == (7,)

    def test_command_line_beats_strategy(self) -> None:
        assert self.gamma("strategy=dynamic_gamma", "gamma=table")[0] == "table"
        assert self.gamma("gamma=table", "strategy=dynamic_gamma")[0] == "table"

    def test_debug_beats_experiment(self) -> None:
        plan = compose(["experiment=guide", "debug=smoke"])
        assert plan.labels == (0,) and plan.seeds == (0,) and plan.settings.timing.units == 1
        assert plan.settings.debug == "smoke" and plan.settings.tracking == "none"
        assert compose(["experiment=guide", "debug=smoke", "labels=3"]).labels == (3,)


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ("3", (3,)),
        ("[0,3]", (0, 3)),
        ("all", tuple(range(10))),
        ("0,3,8", (0, 3, 8)),
        ("[0,3],8", (0, 3, 8)),
        ("[8,0,8]", (8, 0)),
        ("range(2,5)", (2, 3, 4)),
    ],
)
def test_labels(given: str, labels: tuple[int, ...]) -> None:
    plan = compose([f"labels={given}", "strategy=sequential"])
    assert plan.labels == labels
    assert len(plan.cells) == 1
    assert [n.partition(" named")[0] for n in plan.notices] == (["labels: 8"] if given.count("8") > 1 else [])


def test_labels_all_follows_the_model() -> None:
    assert compose(["labels=all", "model=var_d16_d30"]).labels == tuple(range(1000))


@pytest.mark.parametrize(("given", "seeds"), [("4", (0, 1, 2, 3)), ("[4]", (4,)), ("[5,0]", (5, 0)), ("1", (0,))])
def test_seeds(given: str, seeds: tuple[int, ...]) -> None:
    assert compose([f"seeds={given}"]).seeds == seeds


def test_a_range_in_a_yaml_means_what_it_means_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    head = "# @package _global_\n# Mine.\n"
    (tmp_path / "experiment/mine.yaml").write_text(f"{head}seeds: range(10000,10003)\nlabels: range( 2, 4 )\n")
    plan = compose(["experiment=mine", "--config-dir", str(tmp_path)])
    assert (plan.seeds, plan.labels) == ((10000, 10001, 10002), (2, 3))
    (tmp_path / "experiment/none.yaml").write_text(f"{head}seeds: range(5,5)\n")
    with pytest.raises(UserError, match=r"seeds must be a number n .*, got 'range\(5,5\)'"):
        compose(["experiment=none", "--config-dir", str(tmp_path)])


def test_repeated_labels_and_seeds_are_told() -> None:
    plan = compose(["seeds=[0,0,5]", "labels=[3,0,3]"])
    assert (plan.seeds, plan.labels) == ((0, 5), (3, 0))
    assert plan.notices == (
        "labels: 3 named more than once; a repetition is the same image and is decoded once",
        "seeds: 0 named more than once; a repetition is the same image and is decoded once",
    )
    assert "seeds: 1 named more than once" in compose(["seeds=1,1"]).notices[0]


def test_ids_of_cells_stay() -> None:
    """Golden: an id names rows of every ledger that was ever written, so that a change of these orphans results."""
    words = ["strategy=sequential,draft_only,test3,parallel_v1,model_schedule", "acceptance=exact", "mask=block_causal"]
    assert {p.cell.strategy.name: p.cell.id for p in compose(words).cells} == GOLDEN


def test_swept_seeds_are_united_and_explained() -> None:
    plan = compose(["seeds=1,3"])
    assert plan.seeds == (1, 3)
    assert plan.notices == ("a sweep of seeds means these seeds, seeds=[1,3]; seeds=n are the seeds 0 … n-1",)


def test_settings() -> None:
    plan = compose(
        [
            "device=cpu",
            "dtype=float64",
            "threads=2",
            "images=3",
            "timing.units=0",
            "tracking=none",
            "allow_mixed=true",
            "study=mine",
            "results_dir=elsewhere",
            "batch=4",
        ]
    )
    s = plan.settings
    assert (s.device, s.dtype, s.threads, s.images, s.timing.units, s.timing.repeats) == ("cpu", "float64", 2, 3, 0, 3)
    assert (s.tracking, s.engine, s.allow_mixed, s.debug) == ("none", "inprocess", True, "none")
    assert plan.folder == Path("elsewhere/mine") and plan.cells[0].cell.batch == 4


def test_glob_and_last_one_wins() -> None:
    plan = compose(["strategy=test3", "mask=block_causal", "mask=glob(block_diagonal*)"])
    assert names(plan) == ["test3 K=5 block_diagonal", "test3 K=5 block_diagonal_entry_full"]


class TestExperiments:
    def test_cells_and_command_line(self) -> None:
        plan = compose(["experiment=guide", "cfg_schedule=constant", "labels=[1]"])
        assert names(plan)[:4] == [
            "sequential constant",
            "draft_only constant",
            "parallel_v1 exact continue γ=2 block_causal constant",
            "parallel_v1 exact continue γ=3 block_causal constant",
        ]
        assert plan.study == "guide" and plan.labels == (1,)
        assert all(planned.overrides[0] == "experiment=guide" for planned in plan.cells)

    def test_the_guides_criteria(self) -> None:
        """Full list; `exact` + `continue` with γ = 2 … 5, the equivalence, the literal comparison."""
        assert names(compose(["experiment=guide"])) == [
            "sequential",
            "draft_only",
            *(f"parallel_v1 exact continue γ={g} block_causal" for g in (2, 3, 4, 5)),
            "parallel_v1 always <5 correct γ=5 block_causal",
            "test3 K=5 block_causal",
            "test3 K=5 no_prefix",
            "parallel_v1 match_rate τ=0.5 argmax redraft γ=2 block_causal",
        ]

    def test_seed_parallel_v1(self) -> None:
        (planned,) = compose(["experiment=seed_parallel_v1"]).cells
        cell = planned.cell
        assert cell.strategy.params.on_reject.value == "redraft"
        assert cell.acceptance is not None and cell.gamma is not None
        assert cell.acceptance.as_dict() == {"name": "match_rate", "tau": 0.5, "mode": "argmax", "repair": False}
        assert cell.gamma.as_dict() == {"name": "fixed", "value": 2}

    def test_sweeper_params(self, tmp_path: Path) -> None:
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment/mine.yaml").write_text(
            "# @package _global_\nhydra:\n  sweeper:\n    params:\n      strategy: sequential,test3\n"
            "      strategy.entry_num: 3\n"
        )
        argv = ["--config-dir", str(tmp_path), "experiment=mine"]
        assert names(compose([*argv, "strategy=test3", "strategy.entry_num=3,5"])) == ["test3 K=3", "test3 K=5"]

    def test_cells_on_the_command_line(self) -> None:
        plan = compose(['cells=[["strategy=sequential"],["strategy=test3","strategy.entry_num=3,4"]]'])
        assert names(plan) == ["sequential", "test3 K=3", "test3 K=4"]


def test_assembled_trees_equal_composed_ones() -> None:
    """The short cut of large sweeps gives what Hydra gives."""
    load_entries(Command())
    strategies, masks = itertools.cycle(("test3", "dynamic_gamma")), itertools.cycle(("local_stages", "block_causal"))
    others = ("acceptance=exact", "gamma=table", "cfg_schedule=power", "sampling=var", "model=var_d16_d30")
    with started():
        composer = Composer()
        for strategy, mask, other in zip(strategies, masks, others, strict=False):
            key = (f"strategy={strategy}", f"mask={mask}", other)
            short = composer.assembled(key)
            assert short is not None
            composed = composer.base(key)
            assert short.cfg == composed.cfg, key
            assert {k: v for k, v in short.choices.items() if "hydra" not in k} == {
                k: v for k, v in composed.choices.items() if "hydra" not in k
            }


@pytest.mark.parametrize("study", [(), ("tracking=none",), ("experiment=seed_parallel_v1",)])
def test_what_the_study_has_chosen_already_is_not_composed_again(study: tuple[str, ...]) -> None:
    load_entries(Command())
    with started():
        composer = Composer()
        chosen = composer.base(study).choices
        alike = (f"strategy={chosen['strategy']}", f"mask={chosen['mask']}", f"gamma={chosen['gamma']}")
        for more, compositions in (((), 1), (("cfg_schedule=power",), 2)):
            key = (*study, *alike, *more)
            short = composer.assembled(key)
            assert len(composer._kept) == compositions
            assert short is not None and short.cfg == Composer().base(key).cfg


def test_large_sweeps_give_the_same_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["strategy=test3,dynamic_gamma", "mask=block_causal,block_diagonal", "gamma=aimd", "cfg_schedule=linear,off"]
    composed = compose(argv).cells
    monkeypatch.setattr("sdvar_exp.config.cells.LARGE", 0)
    assert compose(argv).cells == composed


def test_short_cut_is_left_where_a_yaml_reaches_out(tmp_path: Path) -> None:
    (tmp_path / "mask").mkdir()
    (tmp_path / "mask/both.yaml").write_text(
        "defaults:\n  - /schema/mask/block_causal@_here_\n  - _self_\n  - override /gamma@_global_.gamma: aimd\n"
    )
    load_entries(Command())
    with started():
        assert Composer(extra=tmp_path).assembled(("strategy=dynamic_gamma", "mask=both")) is None


def test_every_sweep_form_expands() -> None:
    load_entries(Command())
    with started():
        errors: list[str] = []
        axes = expand_all(["gamma.value=range(1,4)", "mask=choice(no_prefix,block_causal)", "labels=3"], Known(), errors)
    assert not errors
    assert {key: [item.value for item in items] for key, items in axes.items()} == {
        "gamma.value": [1, 2, 3],
        "mask": ["no_prefix", "block_causal"],
        "labels": [3],
    }


def test_the_reference_is_the_target_alone_before_any_sweep() -> None:
    """What a command sets for all of its cells counts, what it sweeps does not; `reference.…` overrides both."""

    def reference(*words: str) -> tuple[str, object]:
        plan = compose(list(words))
        assert plan.reference is not None and plan.reference.strategy.name == "sequential"
        schedule = plan.reference.cfg_schedule
        return schedule.name, getattr(schedule.params, "cfg", None)

    assert reference("cfg_schedule=off,constant", "strategy=draft_only") == ("linear", 1.5)
    assert reference("cfg_schedule.cfg=3", "strategy=sequential,draft_only") == ("linear", 3.0)
    assert reference("cfg_schedule.cfg=3", "reference.cfg_schedule.cfg=1.5") == ("linear", 1.5)
    assert reference("cfg_schedule=off", "reference.cfg_schedule=constant", "reference.cfg_schedule.cfg=2") == ("constant", 2.0)
    plan = compose(["sampling.top_k=9", "model.execution=compile", "strategy=draft_only"])
    assert plan.reference is not None and not plan.said
    assert plan.reference.sampling.top_k == 9 and plan.reference.model.execution == "eager"


@pytest.mark.parametrize(
    ("words", "arithmetic"),
    [
        ([], {}),
        (["reference.cfg_schedule.cfg=2"], {}),
        (["reference.model=embedded_plain"], {}),
        (["reference.model.execution=auto"], {"execution": "auto"}),
        (["reference.model.target.dtype=float64"], {"target_dtype": "float64"}),
        (["+reference.model.target_dtype=float64", "reference.cfg_schedule=off"], {"target_dtype": "float64"}),
    ],
)
def test_the_references_arithmetic_is_what_is_said_of_it(words: list[str], arithmetic: dict[str, str]) -> None:
    """Whatever the command sets for its cells: precision is a way to save work, so it must not move what it is compared with."""
    plan = compose(["strategy=draft_only", "model.target.dtype=bfloat16", "model.execution=auto", *words])
    assert plan.reference is not None and plan.reference.model.arithmetic() == arithmetic


@pytest.mark.parametrize(
    ("cells", "reference"),
    [
        ("model.target.dtype=bfloat16", "model.autocast=bfloat16"),
        ("model.autocast=bfloat16", "model.target.dtype=float64"),
        ("model.execution=compile", "model.target.dtype=int8"),
        ("model.target.dtype=int8", "model.execution=compile"),
    ],
)
def test_the_reference_keeps_the_rest_where_its_arithmetic_would_not_go_with_that_of_the_cells(
    cells: str, reference: str
) -> None:
    plan = compose(["strategy=draft_only", "cfg_schedule.cfg=3", "sampling.top_k=9", cells, f"reference.{reference}"])
    assert plan.reference is not None and len(plan.reference.model.arithmetic()) == 1
    assert (plan.reference.cfg_schedule.params.cfg, plan.reference.sampling.top_k) == (3.0, 9)


def test_a_model_that_the_reference_names_has_its_own_arithmetic(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    text = (
        Path(__file__).parents[2] / "conf" / "model" / "embedded.yaml"
    ).read_text() + "target_dtype: bfloat16\nexecution: auto\n"
    (tmp_path / "model" / "mine.yaml").write_text(text)

    def arithmetic(*words: str) -> dict[str, str]:
        plan = compose(["--config-dir", str(tmp_path), "strategy=draft_only", *words])
        assert plan.reference is not None
        return plan.reference.model.arithmetic()

    own = {"execution": "auto", "target_dtype": "bfloat16"}
    assert arithmetic("model=mine") == {} and arithmetic("reference.model=mine") == own
    assert arithmetic("reference.model=mine", "reference.model.execution=eager") == {"target_dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("reference.strategy=test3", "the reference is the target alone, stage by stage; set its"),
        ("reference.mask=block_diagonal", "the reference is the target alone"),
        ("reference=sequential", "reference must name guidance, sampling or model, as {cfg_schedule: {cfg: 1.5}}"),
        ("reference.cfg_schedule=lineer", "unknown cfg_schedule 'lineer'"),
        ("reference.cfg_schedule.strength=2", "reference: unknown key 'cfg_schedule.strength'"),
        ("reference.cfg_schedule.cfg=-1", "cfg"),
        ("reference.model.execution=auto,eager", "reference.model.execution: the reference is one decode; give one value"),
    ],
)
def test_a_wrong_reference_is_one_line(word: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        compose([word])
    assert line in str(error.value) and "\n" not in str(error.value)


def test_an_experiment_names_its_reference(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nreference: {cfg_schedule: {cfg: 2.5}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    plan = compose(["--config-dir", str(tmp_path), "experiment=mine", "cfg_schedule=off"])
    assert plan.reference is not None and plan.reference.cfg_schedule.params.cfg == 2.5 and plan.said


def test_a_composition_serves_the_whole_process_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(conf_folder(), tmp_path / "conf")
    monkeypatch.setattr(composing, "conf_folder", lambda: tmp_path / "conf")
    load_entries(Command())
    with started():
        first = Composer()._compose(())
        assert isinstance(first, Tree) and Composer()._compose(()) is first
        Composer().base(()).cfg.mask = None  # a caller's own copy
        root = tmp_path / "conf" / "config.yaml"
        root.write_text(root.read_text().replace("batch: 1 ", "batch: 3 "))
        anew = Composer()._compose(())
    assert isinstance(anew, Tree) and (first.cfg.batch, anew.cfg.batch) == (1, 3) and first.cfg.mask is not None
