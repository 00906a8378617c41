"""Designs: which combinations become cells, in which order, which are left out and what is said about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdvar_exp.config import compose
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan

SWEEPS = ["strategy=parallel_v1", "acceptance.tau=0.5,0.7", "gamma.value=2,3,4"]


def settings(plan: Plan) -> list[tuple[float, int]]:
    """(τ, γ) of every cell."""
    out = []
    for planned in plan.cells:
        cell = planned.cell
        assert cell.acceptance is not None and cell.gamma is not None
        out.append((cell.acceptance.params.tau, cell.gamma.params.value))
    return out


@pytest.mark.parametrize(
    ("design", "sweeps", "cells"),
    [
        ("product", SWEEPS, [(0.5, 2), (0.5, 3), (0.5, 4), (0.7, 2), (0.7, 3), (0.7, 4)]),
        ("zip", ["acceptance.tau=0.5,0.7,0.9", "gamma.value=2,3,4"], [(0.5, 2), (0.7, 3), (0.9, 4)]),
        ("ofat", SWEEPS, [(0.5, 2), (0.7, 2), (0.5, 3), (0.5, 4)]),
        ("leave_one_out", ["acceptance.tau=0.5,0.7", "gamma.value=2,3"], [(0.7, 3), (0.5, 3), (0.7, 2)]),
        ("list", ['cells=[["acceptance.tau=0.6"],["gamma.value=4","acceptance.tau=0.9"]]'], [(0.6, 2), (0.9, 4)]),
    ],
)
def test_cells_of_a_design(design: str, sweeps: list[str], cells: list[tuple[float, int]]) -> None:
    plan = compose(["-m", f"design={design}", *sweeps])
    assert settings(plan) == cells
    assert compose([f"design={design}", *sweeps]).cells == plan.cells, "with and without -m"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["design=ofat", *SWEEPS], "ofat over acceptance.tau (2), gamma.value (3)"),
        (["design=product"], "product"),
        (["experiment=demo"], "product over gamma.value (2), 9 rows of cells"),
    ],
)
def test_a_plan_says_its_design(argv: list[str], text: str) -> None:
    assert compose(argv).design == text


def test_duplicates_of_a_design_collapse_with_a_notice() -> None:
    plan = compose(["design=ofat", "strategy=sequential,parallel_v1", "mask=block_causal,block_diagonal"])
    assert [p.name for p in plan.cells] == ["sequential", "parallel_v1 match_rate τ=0.5 γ=2"]
    assert plan.notices == ("3 combinations give 2 cells, 1 duplicate collapsed: sequential reads no mask",)


def test_an_experiment_brings_its_design(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/one_by_one.yaml").write_text(
        "# @package _global_\n# One factor at a time.\ndefaults:\n  - override /design: ofat\n  - _self_\n"
        "exclude:\n  - {acceptance.tau: 0.7, reason: known from before}\n"
        "hydra:\n  sweeper:\n    params:\n      acceptance.tau: 0.5,0.7,0.8\n      gamma.value: 2,3\n"
    )
    plan = compose(["--config-dir", str(tmp_path), "experiment=one_by_one"])
    assert settings(plan) == [(0.5, 2), (0.8, 2), (0.5, 3)]
    assert plan.notices == ("1 combination left out: acceptance.tau=0.7: known from before",)
    again = compose(["--config-dir", str(tmp_path), "experiment=one_by_one", "gamma.value=4", "design=product"])
    assert settings(again) == [(0.5, 4), (0.8, 4)], "the command line beats the experiment"


def test_a_rule_goes_by_overrides_and_by_what_they_mean() -> None:
    """`parallel_v1` cannot take `no_prefix`: the rule keeps that combination from being composed at all."""
    rules = ("{strategy:parallel_v1,mask:no_prefix,reason:'test3 only'}", "{strategy:test3,acceptance.tau:[0.5,0.6],reason:b}")
    plan = compose(["strategy=test3,parallel_v1", "mask=block_causal,no_prefix", f"exclude=[{','.join(rules)}]"])
    assert [p.name for p in plan.cells] == ["parallel_v1 match_rate τ=0.5 γ=2"]
    assert plan.notices == (
        "1 combination left out: strategy=parallel_v1 mask=no_prefix: test3 only",
        "2 combinations left out: strategy=test3 acceptance.tau=0.5,0.6: b",
    )
    required = ("{mask:block_causal,reason:trained}", "{strategy:[test3,parallel_v1],acceptance.tau:0.5,reason:c}")
    plan = compose(["strategy=test3,parallel_v1", "mask=block_causal,no_prefix", f"require=[{','.join(required)}]"])
    assert [p.cell.strategy.name for p in plan.cells] == ["test3", "parallel_v1"]
    assert plan.notices == (
        "2 combinations left out: not mask=block_causal: trained",
        "require strategy=test3,parallel_v1 acceptance.tau=0.5: every combination has this",
    )


def test_a_rule_that_does_nothing_is_told() -> None:
    assert compose(["exclude=[{batch:7,reason:none}]"]).notices == ("exclude batch=7: no combination has this",)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["design=zip", *SWEEPS],
            "design=zip needs sweeps of one length, but acceptance.tau has 2 values, gamma.value has 3 values",
        ),
        (
            ["design=leave_one_out", *SWEEPS],
            "design=leave_one_out takes two values of a key, without and with, but gamma.value has 3",
        ),
        (
            ["design=list"],
            "design=list needs cells, a list of lists of overrides, "
            "as [['strategy=sequential'], ['strategy=test3', 'strategy.entry_num=3']]",
        ),
        (
            ["design=list", "experiment=demo"],
            "design=list takes the rows of cells as they are, but gamma.value is swept; use another design",
        ),
        (["design=oft"], "unknown design 'oft'; did you mean 'ofat'?"),
        (
            ["exclude=[{mask:no_prefix}]"],
            "exclude is a list of {key: value, …, reason: why}: {'mask': 'no_prefix'} says no reason",
        ),
        (["exclude=[{reason:a}]"], "exclude is a list of {key: value, …, reason: why}: {'reason': 'a'} names no key"),
        (["exclude=3"], "exclude is a list of {key: value, …, reason: why}, not 3"),
        (
            ["exclude=[{acceptance.tua:1,reason:a}]"],
            "exclude: unknown key 'acceptance.tua' of a cell; did you mean 'acceptance.tau'?",
        ),
        (["exclude=[{batch:1,reason:a}]"], "exclude leaves out every combination; drop a rule"),
        (["require=[{batch:2,reason:a}]"], "require leaves out every combination; drop a rule"),
        (["require=[{mask:blok_causal,reason:a}]"], "require: unknown mask 'blok_causal'; did you mean 'block_causal'?"),
        (
            ["require=[{mask:block_causal}]"],
            "require is a list of {key: value, …, reason: why}: {'mask': 'block_causal'} says no reason",
        ),
    ],
)
def test_mistakes(lines: Callable[..., list[str]], argv: list[str], line: str) -> None:
    assert lines(*argv) == [line]


FILES = ["model=files", "model.classes=10", "model.stages=10", "model.draft=b", "model.target=c"]


def test_files_count_by_name_wherever_they_lie(lines: Callable[..., list[str]]) -> None:
    (one,) = compose([*FILES, "model.vae=a", "model.folder=here"]).cells
    (other,) = compose([*FILES, "model.vae=/some/where/a"]).cells
    assert one.cell.id == other.cell.id
    assert lines(*FILES, "model.vae=a", "model.folder=x,y") == [
        "model.folder 'x' and 'y': files are told apart by their names, not by where they lie, and these have the same; "
        "rename one, or use one study each"
    ]


def test_an_empty_study_name(lines: Callable[..., list[str]]) -> None:
    assert lines("study=''") == ["study must not be empty; leave it out, or give a folder name"]


class TestNaturalSweeps:
    """Sweeps whose values do not all go together run; what has no meaning is left out and said, a typo is refused."""

    def test_parameters_that_a_choice_does_not_have(self) -> None:
        plan = compose(["acceptance=exact,match_rate", "acceptance.tau=0.4,0.7"])
        assert [p.name for p in plan.cells] == [
            "parallel_v1 exact γ=2",
            "parallel_v1 match_rate τ=0.4 γ=2",
            "parallel_v1 match_rate τ=0.7 γ=2",
        ]
        assert "acceptance.tau is left out for acceptance=exact, which has no tau" in plan.notices
        plan = compose(["strategy=test3,parallel_v1", "strategy.entry_num=3,5"])
        assert [p.name for p in plan.cells] == ["test3 K=3", "test3 K=5", "parallel_v1 match_rate τ=0.5 γ=2"]
        plan = compose(["strategy=dynamic_gamma", "gamma=fixed,aimd", "gamma.value=2,4"])
        assert len(plan.cells) == 3
        plan = compose(["acceptance=exact,match_rate", "acceptance.tau=0.7"])
        assert [p.overrides for p in plan.cells] == [("acceptance=exact",), ("acceptance=match_rate", "acceptance.tau=0.7")]

    def test_rows_of_cells_that_choose_another_entry(self) -> None:
        """A parameter of the study's own choice is dropped in the rows that choose one without it."""
        rows = "cells=[['gamma=fixed'],['strategy=dynamic_gamma','gamma=aimd,margin']]"
        plan = compose([rows, "gamma.value=4", "acceptance=exact"])
        assert [p.cell.gamma and p.cell.gamma.name for p in plan.cells] == ["fixed", "aimd", "margin"]
        assert [n for n in plan.notices if "left out" in n] == [
            f"gamma.value is left out for gamma={name}, which has no value" for name in ("aimd", "margin")
        ]
        assert len(compose([rows.replace("'gamma=fixed'", ""), "gamma.value=4", "acceptance=exact"]).cells) == 3
        with pytest.raises(UserError, match="unknown key"):
            compose(["cells=[['strategy=dynamic_gamma','gamma=aimd,margin']]", "gamma.value=4"])

    def test_choices_that_do_not_go_together(self) -> None:
        plan = compose(["strategy=parallel_v1,dynamic_gamma", "gamma=fixed,aimd", "acceptance=exact"])
        assert [p.cell.gamma.name for p in plan.cells if p.cell.gamma] == ["fixed", "aimd"]
        (left_out, _) = plan.notices
        assert left_out.startswith("1 combination left out: parallel_v1 takes gamma=fixed only")

    def test_a_value_that_fits_nowhere_is_a_mistake(self) -> None:
        for argv in (["gamma.value=2,11"], ["strategy=parallel_v1", "gamma=fixed,aimd"], ["mask=block_causal,no_prefix"]):
            with pytest.raises(UserError):
                compose(argv)

    def test_a_typo_is_refused(self) -> None:
        for argv in (["acceptance=exact,match_rate", "acceptance.tua=0.7"], ["acceptance=exact", "acceptance.tau=0.7"]):
            with pytest.raises(UserError, match="unknown key"):
                compose(argv)
