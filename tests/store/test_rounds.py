"""Counts of rounds, by hand: what a round commits under each option, and studies whose tables lack them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sdvar_exp.report import summarise
from sdvar_exp.store.rounds import commits_per_round, rate_by_stage, round_columns
from sdvar_exp.store.tables import load_tables, write_tables
from sdvar_exp.tracking.content import contents
from tests.store.making import make_plan, opened, unit_body


def rows(letters: str) -> list[dict[str, Any]]:
    """One row a stage: 1 passed, 0 failed, T the target's own sample, D the draft's."""
    made = {"1": ("verified", True), "0": ("verified", False), "T": ("target", None), "D": ("draft", None)}
    return [{"stage": k, "source": made[x][0], "passed": made[x][1]} for k, x in enumerate(letters)]


BY_HAND = [
    # verdicts, γ of each round, options, stages committed by each round, proposed, accepted
    ("11011", "2,2,2", {}, "2,1,2", 6, 4),
    ("1110", "3,1", {}, "3,1", 4, 3),
    ("10110", "3,3", {"on_reject": "continue"}, "3,2", 6, 3),
    ("11T10", "2,2", {"bonus": True}, "3,2", 4, 3),
    ("11T11T", "2,2", {"bonus": True}, "3,3", 4, 4),
    ("1101T", "2,2", {"bonus": True}, "2,1", 4, 3),  # sums to 3, not to the 5 that were committed: unknown
    ("11T0T", "3,2,1", {"skip_last": True}, "3,1,1", 3, 2),  # γ counts the stage that the draft skips
    ("T110", "0,2,1", {}, "1,2,1", 3, 2),
    ("TT110D", "2,1", {}, "2,1", 3, 2),  # two stages by the target alone before the rounds, one by the draft behind them
    ("T110D", "2,1", {}, "2,1", 3, 2),
    ("11D", "2,1", {}, "2,0", 3, 2),  # a round more than there are verdicts
]


@pytest.mark.parametrize(("verdicts", "gammas", "options", "commits", "proposed", "accepted"), BY_HAND)
def test_rounds_by_hand(verdicts: str, gammas: str, options: dict, commits: str, proposed: int, accepted: int) -> None:
    committed = 5 if verdicts == "1101T" else sum(map(int, commits.split(",")))
    sample = {"gamma_trace": gammas, "committed_by_verify": committed}
    found = round_columns(sample, rows(verdicts), {"strategy": {"name": "x", **options}})
    assert found.get("commit_trace") == (None if verdicts == "1101T" else commits)
    assert (found["proposed_stages"], found["accepted_stages"]) == (proposed, accepted)
    assert found["rounds"] == sum(g != "0" for g in gammas.split(","))
    assert found["round_commits"] == committed - gammas.split(",").count("0")
    assert found["stage_verdicts"] == verdicts.replace("T", "-").replace("D", "-")


def test_unknown_where_verdicts_do_not_tell() -> None:
    sample = {"gamma_trace": "2,1", "committed_by_verify": 2}
    for config in ({"batch": 4}, {"strategy": {"on_reject": "redraft"}}):
        found = round_columns(sample, rows("11"), config)
        assert "commit_trace" not in found and found["rounds"] == 2
    assert round_columns({"gamma_trace": None}, rows("TT"), {}) == {} == round_columns(sample, [], {})


def test_counts_of_several_images() -> None:
    assert commits_per_round(["2,1", "2", None]) == {1: 1, 2: 2}
    assert rate_by_stage(["10-", "11-", None]) == {0: (1.0, 2), 1: (0.5, 2)}


@pytest.fixture
def studied(tmp_path: Path) -> Path:
    """Six images of each cell, three stages: rounds of γ = 2 and 1 that commit two stages, then one that failed."""
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        for planned in plan.cells:
            for label in plan.labels:
                for seed in plan.seeds:
                    sample = {"gamma_trace": "2,1", "committed_by_verify": 3}
                    study.append(unit_body(planned.cell.id, label, seed, **sample))
    return plan.folder


def test_a_study_without_the_columns_reads(studied: Path) -> None:
    """Canonical names are 1.5 stages a round, 1 without the corrected stage, 2/3 of the proposed; with and without a ledger."""

    def check(folder: Path) -> None:
        tables = load_tables(folder, stages=False)
        found = summarise(tables).iloc[2]
        assert (found["mean_acceptance_length"], found["mean_accepted_length"]) == (1.5, 1.0)
        assert found["draft_acceptance_rate"] == pytest.approx(2 / 3)
        content = contents(folder, tables)[2].summary
        assert content["mean_acceptance_length"] == 1.5 and content["rounds_committing_02"] == 6
        assert [content[f"acceptance_rate_stage_0{k}"] for k in range(3)] == [1, 1, 0]

    check(studied)
    tables = write_tables(studied)
    old = tables.samples.drop(
        columns=["rounds", "proposed_stages", "accepted_stages", "round_commits", "stage_verdicts", "commit_trace"]
    )
    old.to_parquet(studied / "tables" / "samples.parquet")
    shutil.rmtree(studied / "ledger")
    assert "rounds" not in pd.read_parquet(studied / "tables" / "samples.parquet")
    check(studied)
