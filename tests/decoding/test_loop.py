"""The loop on a scripted pair without transformers: what is proposed, fed, committed, wasted and forced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import decode
from sdvar_exp.decoding.masks import materialise
from sdvar_exp.errors import UserError
from sdvar_exp.registry import Choice, choose
from tests.decoding.cells import draft_only, flat, hand_off, loop, run_watched, sequential, trace
from tests.support import FakePair, Script, digest


def rate(tau: float, **options: Any) -> Choice:
    return choose("acceptance", "match_rate", tau=tau, **options)


@dataclass
class Case:
    """A cell, which stages the draft gets wrong (stage → tokens), and all that must happen. Stages have 1, 4, 9, 16 tokens."""

    cell: Cell
    misses: dict[int, int]
    trace: list[tuple[int, int, int, int]]  # first, proposed, committed, passed
    draft: list[tuple[int, ...]]  # stages fed in each pass
    target: list[tuple[int, ...]]
    wasted: int = 0
    forced: int = 0
    replaced: int = 0
    by_verify: int = 4
    sources: list[str] = field(default_factory=lambda: ["verified"] * 4)


CASES = {
    "all pass": Case(loop(gamma=2), {}, [(0, 2, 2, 2), (2, 2, 2, 2)], [(0,), (1,), (2,), (3,)], [(0, 1), (2, 3)]),
    "one round": Case(loop(gamma=4), {}, [(0, 4, 4, 4)], [(0,), (1,), (2,), (3,)], [(0, 1, 2, 3)]),
    "correct": Case(
        loop(gamma=3),
        {1: 2},
        [(0, 3, 2, 1), (2, 2, 2, 2)],
        [(0,), (1,), (2,), (2,), (3,)],
        [(0, 1, 2), (2, 3)],
        wasted=9,
        replaced=2,
    ),
    "correct, last stage": Case(
        loop(gamma=2), {3: 16}, [(0, 2, 2, 2), (2, 2, 2, 1)], [(0,), (1,), (2,), (3,)], [(0, 1), (2, 3)], replaced=16
    ),
    "never": Case(
        loop("never", gamma=2),
        {},
        [(0, 2, 1, 0), (1, 2, 1, 0), (2, 2, 1, 0), (3, 1, 1, 0)],
        [(0,), (1,), (1,), (2,), (2,), (3,), (3,)],
        [(0, 1), (1, 2), (2, 3), (3,)],
        wasted=4 + 9 + 16,
    ),
    "always": Case(
        loop("always", gamma=3), {0: 1, 2: 5}, [(0, 3, 3, 3), (3, 1, 1, 1)], [(0,), (1,), (2,), (3,)], [(0, 1, 2), (3,)]
    ),
    "always until 2": Case(
        loop(choose("acceptance", "always", until=2), gamma=3),
        {0: 1},
        [(0, 3, 3, 2), (3, 1, 1, 0)],
        [(0,), (1,), (2,), (3,)],
        [(0, 1, 2), (3,)],
    ),
    "continue": Case(
        loop(gamma=3, on_reject="continue"),
        {0: 1},
        [(0, 3, 3, 0), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (1, 2, 3)],
        [(0, 1, 2), (3,)],
        replaced=1,
    ),
    "continue, two fail": Case(
        loop(gamma=3, on_reject="continue"),
        {0: 1, 2: 3},
        [(0, 3, 3, 0), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (1, 2, 3)],
        [(0, 1, 2), (3,)],
        replaced=4,
    ),
    "continue, last proposed fails": Case(
        loop(gamma=3, on_reject="continue"),
        {2: 3},
        [(0, 3, 3, 2), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (3,)],
        [(0, 1, 2), (3,)],
        replaced=3,
    ),
    "continue, draft keeps": Case(
        loop(gamma=3, on_reject="continue", draft_stale="keep"),
        {0: 1},
        [(0, 3, 3, 0), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (3,)],
        [(0, 1, 2), (3,)],
        replaced=1,
    ),
    "continue, target recomputes": Case(
        loop(gamma=3, on_reject="continue", target_stale="recompute"),
        {0: 1},
        [(0, 3, 3, 0), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (1, 2, 3)],
        [(0, 1, 2), (1, 2, 3)],
        replaced=1,
    ),
    "lossy pass": Case(
        loop(rate(0.5), gamma=3), {1: 2}, [(0, 3, 3, 3), (3, 1, 1, 1)], [(0,), (1,), (2,), (3,)], [(0, 1, 2), (3,)]
    ),
    "lossy fail": Case(
        loop(rate(0.51), gamma=3),
        {1: 2},
        [(0, 3, 2, 1), (2, 2, 2, 2)],
        [(0,), (1,), (2,), (2,), (3,)],
        [(0, 1, 2), (2, 3)],
        wasted=9,
        replaced=2,
    ),
    "repair": Case(
        loop(rate(0.5, repair=True), gamma=3),
        {1: 2},
        [(0, 3, 3, 3), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (2, 3)],
        [(0, 1, 2), (3,)],
        replaced=2,
    ),
    "repair, draft keeps": Case(
        loop(rate(0.5, repair=True), gamma=3, draft_stale="keep"),
        {1: 2},
        [(0, 3, 3, 3), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (3,)],
        [(0, 1, 2), (3,)],
        replaced=2,
    ),
    "repair, target recomputes": Case(
        loop(rate(0.5, repair=True), gamma=3, target_stale="recompute"),
        {1: 2},
        [(0, 3, 3, 3), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (2, 3)],
        [(0, 1, 2), (2, 3)],
        replaced=2,
    ),
    "repair, a stage fails": Case(
        loop(rate(0.5, repair=True), gamma=3),
        {0: 1, 1: 2},
        [(0, 3, 1, 0), (1, 3, 3, 3)],
        [(0,), (1,), (2,), (1,), (2,), (3,)],
        [(0, 1, 2), (1, 2, 3)],
        wasted=4 + 9,
        replaced=3,
    ),
    "repair and continue": Case(
        loop(rate(0.5, repair=True), gamma=3, on_reject="continue"),
        {0: 1, 1: 2},
        [(0, 3, 3, 0), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (1, 2, 3)],
        [(0, 1, 2), (3,)],
        replaced=3,
    ),
    "repair and bonus": Case(
        loop(rate(0.5, repair=True), gamma=2, bonus=True),
        {1: 2},
        [(0, 2, 3, 2), (3, 1, 1, 1)],
        [(0,), (1,), (2, 3)],
        [(0, 1, 2), (3,)],
        replaced=2,
        sources=["verified", "verified", "target", "verified"],
    ),
    "repair and bonus, target recomputes": Case(
        loop(rate(0.5, repair=True), gamma=2, bonus=True, target_stale="recompute"),
        {1: 2},
        [(0, 2, 3, 2), (3, 1, 1, 1)],
        [(0,), (1,), (2, 3)],
        [(0, 1, 2), (2, 3)],
        replaced=2,
        sources=["verified", "verified", "target", "verified"],
    ),
    "continue, both recompute, twice": Case(
        loop(gamma=2, on_reject="continue", target_stale="recompute"),
        {0: 1, 2: 1},
        [(0, 2, 2, 0), (2, 2, 2, 0)],
        [(0,), (1,), (1, 2), (3,)],
        [(0, 1), (1, 2, 3)],
        replaced=2,
    ),
    "continue, both keep, twice": Case(
        loop(gamma=2, on_reject="continue", draft_stale="keep"),
        {0: 1, 2: 1},
        [(0, 2, 2, 0), (2, 2, 2, 0)],
        [(0,), (1,), (2,), (3,)],
        [(0, 1), (2, 3)],
        replaced=2,
    ),
    "continue, draft keeps, target recomputes": Case(
        loop(gamma=2, on_reject="continue", draft_stale="keep", target_stale="recompute"),
        {0: 1},
        [(0, 2, 2, 0), (2, 2, 2, 2)],
        [(0,), (1,), (2,), (3,)],
        [(0, 1), (1, 2, 3)],
        replaced=1,
    ),
    "redraft, nothing passes": Case(
        loop(gamma=2, on_reject="redraft"),
        {0: 1},
        [(0, 2, 0, 0), (0, 1, 1, 0), (1, 1, 1, 1), (2, 1, 1, 1), (3, 1, 1, 1)],
        [(0,), (1,), (0,), (1,), (2,), (3,)],
        [(0, 1), (0,), (1,), (2,), (3,)],
        wasted=5,
        forced=1,
    ),
    "redraft, some pass": Case(
        loop(gamma=3, on_reject="redraft"),
        {1: 1},
        [(0, 3, 1, 1), (1, 3, 0, 0), (1, 2, 0, 0), (1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (1,), (2,), (3,), (1,), (2,), (1,), (2,), (3,)],
        [(0, 1, 2), (1, 2, 3), (1, 2), (1,), (2,), (3,)],
        wasted=4 + 9 + 4 + 9 + 16 + 4 + 9,
        forced=1,
    ),
    "redraft, all pass": Case(
        loop(gamma=2, on_reject="redraft"), {}, [(0, 2, 2, 2), (2, 2, 2, 2)], [(0,), (1,), (2,), (3,)], [(0, 1), (2, 3)]
    ),
    "bonus": Case(
        loop(gamma=2, bonus=True),
        {},
        [(0, 2, 3, 2), (3, 1, 1, 1)],
        [(0,), (1,), (2, 3)],
        [(0, 1, 2), (3,)],
        sources=["verified", "verified", "target", "verified"],
    ),
    "bonus, a stage fails": Case(
        loop(gamma=2, bonus=True),
        {1: 1},
        [(0, 2, 2, 1), (2, 2, 2, 2)],
        [(0,), (1,), (2,), (3,)],
        [(0, 1, 2), (2, 3)],
        replaced=1,
    ),
    "bonus has no room": Case(loop(gamma=4, bonus=True), {}, [(0, 4, 4, 4)], [(0,), (1,), (2,), (3,)], [(0, 1, 2, 3)]),
    "bonus and continue": Case(
        loop(gamma=2, bonus=True, on_reject="continue"),
        {0: 1},
        [(0, 2, 2, 0), (2, 2, 2, 2)],
        [(0,), (1,), (1, 2), (3,)],
        [(0, 1, 2), (2, 3)],
        replaced=1,
    ),
    "bonus and continue, target recomputes": Case(
        loop(gamma=2, bonus=True, on_reject="continue", target_stale="recompute"),
        {0: 1},
        [(0, 2, 2, 0), (2, 2, 2, 2)],
        [(0,), (1,), (1, 2), (3,)],
        [(0, 1, 2), (1, 2, 3)],
        replaced=1,
    ),
    "bonus and continue, all pass": Case(
        loop(gamma=2, bonus=True, on_reject="continue"),
        {},
        [(0, 2, 3, 2), (3, 1, 1, 1)],
        [(0,), (1,), (2, 3)],
        [(0, 1, 2), (3,)],
        sources=["verified", "verified", "target", "verified"],
    ),
    "skip_last": Case(
        loop(gamma=2, skip_last=True),
        {},
        [(0, 1, 2, 1), (2, 1, 2, 1)],
        [(0,), (1, 2)],
        [(0, 1), (2, 3)],
        sources=["verified", "target", "verified", "target"],
    ),
    "skip_last, a stage fails": Case(
        loop(gamma=3, skip_last=True),
        {0: 1},
        [(0, 2, 1, 0), (1, 2, 3, 2)],
        [(0,), (1,), (1,), (2,)],
        [(0, 1, 2), (1, 2, 3)],
        wasted=4,
        replaced=1,
        sources=["verified", "verified", "verified", "target"],
    ),
    "skip_last, γ = 1": Case(
        loop(gamma=1, skip_last=True),
        {},
        [(k, 0, 1, 0) for k in range(4)],
        [],
        [(0,), (1,), (2,), (3,)],
        sources=["target"] * 4,
    ),
    "skip_last and continue": Case(
        loop(gamma=3, skip_last=True, on_reject="continue"),
        {0: 1},
        [(0, 2, 3, 0), (3, 0, 1, 0)],
        [(0,), (1,)],
        [(0, 1, 2), (3,)],
        replaced=1,
        sources=["verified", "verified", "target", "target"],
    ),
    "skip_last and continue, target recomputes": Case(
        loop(gamma=3, skip_last=True, on_reject="continue", target_stale="recompute"),
        {0: 1},
        [(0, 2, 3, 0), (3, 0, 1, 0)],
        [(0,), (1,)],
        [(0, 1, 2), (1, 2, 3)],
        replaced=1,
        sources=["verified", "verified", "target", "target"],
    ),
    "γ = 0 first": Case(
        loop(gamma=(0, 2)),
        {},
        [(0, 0, 1, 0), (1, 2, 2, 2), (3, 1, 1, 1)],
        [(0, 1), (2,), (3,)],
        [(0,), (1, 2), (3,)],
        sources=["target", "verified", "verified", "verified"],
    ),
    "γ = 0 between": Case(
        loop(gamma=(1, 0, 2)),
        {},
        [(0, 1, 1, 1), (1, 0, 1, 0), (2, 2, 2, 2)],
        [(0,), (1, 2), (3,)],
        [(0,), (1,), (2, 3)],
        sources=["verified", "target", "verified", "verified"],
    ),
    "γ = 0 always": Case(
        loop(gamma=(0,)), {}, [(k, 0, 1, 0) for k in range(4)], [], [(0,), (1,), (2,), (3,)], sources=["target"] * 4
    ),
    "aimd": Case(
        loop(gamma=choose("gamma", "aimd", start=1)),
        {2: 1},
        [(0, 1, 1, 1), (1, 2, 2, 1), (3, 1, 1, 1)],
        [(0,), (1,), (2,), (3,)],
        [(0,), (1, 2), (3,)],
        replaced=1,
    ),
    "hybrid": Case(
        loop(gamma=3, until=2),
        {3: 16},
        [(0, 2, 2, 2)],
        [(0,), (1,), (2,), (3,)],
        [(0, 1)],
        by_verify=2,
        sources=["verified", "verified", "draft", "draft"],
    ),
    "hybrid, a stage fails": Case(
        loop(gamma=2, until=3),
        {0: 1},
        [(0, 2, 1, 0), (1, 2, 2, 2)],
        [(0,), (1,), (1,), (2,), (3,)],
        [(0, 1), (1, 2)],
        wasted=4,
        replaced=1,
        by_verify=3,
        sources=["verified", "verified", "verified", "draft"],
    ),
    "hybrid, bonus stays before the end": Case(
        loop(gamma=2, until=3, bonus=True),
        {},
        [(0, 2, 3, 2)],
        [(0,), (1,), (2, 3)],
        [(0, 1, 2)],
        by_verify=3,
        sources=["verified", "verified", "target", "draft"],
    ),
    "hybrid, nothing verified": Case(
        loop(gamma=2, until=0), {}, [], [(0,), (1,), (2,), (3,)], [], by_verify=0, sources=["draft"] * 4
    ),
    "hybrid and continue": Case(
        loop(gamma=3, until=3, on_reject="continue"),
        {0: 1},
        [(0, 3, 3, 0)],
        [(0,), (1,), (2,), (1, 2, 3)],
        [(0, 1, 2)],
        replaced=1,
        by_verify=3,
        sources=["verified", "verified", "verified", "draft"],
    ),
    "hybrid and continue, draft keeps": Case(
        loop(gamma=3, until=3, on_reject="continue", draft_stale="keep"),
        {0: 1},
        [(0, 3, 3, 0)],
        [(0,), (1,), (2,), (3,)],
        [(0, 1, 2)],
        replaced=1,
        by_verify=3,
        sources=["verified", "verified", "verified", "draft"],
    ),
    "hybrid and repair": Case(
        loop(rate(0.5, repair=True), gamma=3, until=3),
        {1: 2},
        [(0, 3, 3, 3)],
        [(0,), (1,), (2,), (2, 3)],
        [(0, 1, 2)],
        replaced=2,
        by_verify=3,
        sources=["verified", "verified", "verified", "draft"],
    ),
    "hybrid and redraft": Case(
        loop(gamma=2, until=2, on_reject="redraft"),
        {0: 1},
        [(0, 2, 0, 0), (0, 1, 1, 0), (1, 1, 1, 1)],
        [(0,), (1,), (0,), (1,), (2,), (3,)],
        [(0, 1), (0,), (1,)],
        wasted=5,
        forced=1,
        by_verify=2,
        sources=["verified", "verified", "draft", "draft"],
    ),
    "hybrid and skip_last": Case(
        loop(gamma=3, until=3, skip_last=True),
        {},
        [(0, 2, 3, 2)],
        [(0,), (1,), (2, 3)],
        [(0, 1, 2)],
        by_verify=3,
        sources=["verified", "verified", "target", "draft"],
    ),
    "hybrid, γ = 0 first": Case(
        loop(gamma=(0, 2), until=2),
        {},
        [(0, 0, 1, 0), (1, 1, 1, 1)],
        [(0, 1), (2,), (3,)],
        [(0,), (1,)],
        by_verify=2,
        sources=["target", "verified", "draft", "draft"],
    ),
    "hybrid, aimd": Case(
        loop(gamma=choose("gamma", "aimd", start=1), until=3),
        {1: 1},
        [(0, 1, 1, 1), (1, 2, 1, 0), (2, 1, 1, 1)],
        [(0,), (1,), (2,), (2,), (3,)],
        [(0,), (1, 2), (2,)],
        wasted=9,
        replaced=1,
        by_verify=3,
        sources=["verified", "verified", "verified", "draft"],
    ),
    "sequential": Case(sequential(), {}, [], [], [(0,), (1,), (2,), (3,)], by_verify=0, sources=["target"] * 4),
    "draft only": Case(draft_only(), {1: 2}, [], [(0,), (1,), (2,), (3,)], [], by_verify=0, sources=["draft"] * 4),
    "hand-off": Case(
        hand_off(2), {1: 2}, [], [(0,), (1,)], [(0, 1, 2), (3,)], by_verify=0, sources=["draft", "draft", "target", "target"]
    ),
    "collaborative": Case(
        Cell(choose("strategy", "collaborative", target_stages=2)),
        {3: 1},
        [],
        [(0, 1, 2), (3,)],
        [(0,), (1,)],
        by_verify=0,
        sources=["target", "target", "draft", "draft"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_fed_and_committed(name: str) -> None:
    case = CASES[name]
    pair = FakePair(script=Script(misses={3: case.misses}))
    out = decode(pair, case.cell, [Unit(3, 0)])
    counts = out.counts
    assert trace(out) == case.trace
    skipped = int(getattr(case.cell.strategy.params, "skip_last", False))
    assert [r.gamma for r in out.rounds] == [r.proposed + skipped for r in out.rounds]
    assert pair.passes("draft") == case.draft
    assert pair.passes("target") == case.target
    assert (counts.draft_calls, counts.target_calls) == (len(case.draft), len(case.target))
    assert (counts.wasted_tokens, counts.forced_commits, counts.replaced_tokens) == (case.wasted, case.forced, (case.replaced,))
    assert (counts.committed_by_verify, counts.verify_calls) == (case.by_verify, len(case.trace))
    assert [s.source for s in out.stages] == case.sources
    rows = {k: n for k, n in enumerate(pair.pyramid.lengths)}
    fed = [2 * sum(rows[k] for k in stages) for stages in case.draft]  # both guidance halves
    assert counts.draft_rows == sum(fed)
    assert counts.target_rows == sum(2 * sum(rows[k] for k in stages) for stages in case.target)
    assert all(p.halves == 2 for p in pair.log)
    assert (counts.target_rows_alone, counts.draft_rows_alone) == (60, 60)


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n].trace])
def test_rows_of_the_rounds_are_what_the_target_was_fed(name: str) -> None:
    case = CASES[name]
    pair = FakePair(script=Script(misses={3: case.misses}))
    out = decode(pair, case.cell, [Unit(3, 0)])
    assert [r.rows for r in out.rounds] == [sum(pair.pyramid.lengths[k] for k in stages) for stages in case.target]


def test_outcomes_of_the_judged_stages() -> None:
    pair = FakePair(script=Script(misses={3: {1: 2, 2: 9}, 4: {1: 1}}))
    out = decode(pair, loop(rate(0.6), gamma=4), [Unit(3, 0), Unit(4, 0)])
    assert [s.passed for s in out.stages] == [(True, True), (False, True), (False, True), (True, True)]
    assert [s.match for s in out.stages] == [(1, 1), (0.5, 0.75), (0, 1), (1, 1)]
    assert [s.acceptance for s in out.stages] == [s.match for s in out.stages]
    assert out.stages[2].one_minus_tv == pytest.approx((0, 1))
    assert out.stages[1].one_minus_tv == pytest.approx((0.5, 0.75))
    bare = decode(pair, loop(rate(0.6), gamma=4), [Unit(3, 0)], record=False)
    assert bare.margins is None
    assert all(s.match is None and s.kl is None for s in bare.stages)


BATCHES = {
    # labels, misses by label, trace of the batch, calls of each image alone
    "the least counts": ({3: {0: 1}, 4: {2: 1}}, [(0, 2, 1, 0), (1, 2, 2, 1), (3, 1, 1, 1)], (3, 3)),
    "one is perfect": ({3: {0: 1, 1: 1, 2: 1}, 4: {}}, [(0, 2, 1, 0), (1, 2, 1, 0), (2, 2, 1, 0), (3, 1, 1, 1)], (4, 2)),
    "both perfect": ({3: {}, 4: {}}, [(0, 2, 2, 2), (2, 2, 2, 2)], (2, 2)),
    "same failures": ({3: {1: 1}, 4: {1: 4}}, [(0, 2, 2, 1), (2, 2, 2, 2)], (2, 2)),
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_advances_by_its_minimum(name: str) -> None:
    misses, expected, alone = BATCHES[name]
    pair = FakePair(script=Script(misses=misses))
    out = decode(pair, loop(gamma=2), [Unit(3, 0), Unit(4, 0)])
    assert trace(out) == expected
    assert out.counts.target_calls_alone == alone
    for row, label in enumerate((3, 4)):
        one = decode(pair, loop(gamma=2), [Unit(label, 0)])
        assert torch.equal(flat(one)[0], flat(out)[row])
        assert one.counts.target_calls == alone[row]


def test_each_image_keeps_its_own_verdict() -> None:
    """Never a batch mean: one image passes, its mate is corrected, in the same stage."""
    pair = FakePair(script=Script(misses={3: {0: 1}, 4: {0: 1}}))
    out = decode(pair, loop(choose("acceptance", "match_rate", tau=1.0), gamma=1), [Unit(3, 0), Unit(5, 0)])
    assert out.stages[0].passed == (False, True)
    assert out.counts.replaced_tokens == (1, 0)


def test_calls_alone_are_unknown_where_they_depend_on_mates() -> None:
    units, misses = [Unit(3, 0), Unit(4, 0)], {3: {0: 1, 1: 1, 2: 1, 3: 1}, 4: {}}
    lossy = choose("acceptance", "match_rate", tau=0.9)
    for cell in (
        loop(gamma=2, on_reject="continue"),
        loop(rate(0.5, repair=True)),
        loop(gamma=(1, 0, 2)),
        loop(gamma=2, mask="block_diagonal"),
        loop(gamma=2, bonus=True),
        loop(lossy, gamma=2, bonus=True),
        loop(gamma=2, skip_last=True),
        loop(lossy, gamma=(2, 2, 2, 0)),
    ):
        assert decode(FakePair(script=Script(misses=misses)), cell, units).counts.target_calls_alone is None


def test_masks_of_the_passes() -> None:
    """The mask holds for every verify pass, a last one of one stage included, and for a hand-off's entry; never after."""
    mask = "token_causal_blocks"

    def masked(cell: Cell) -> list[bool]:
        pair = FakePair((2, 3, 4))
        decode(pair, cell, [Unit(3, 0)])  # type: ignore[arg-type]
        out = []
        for p in (p for p in pair.log if p.role == "target"):
            wanted = materialise(choose("mask", mask), pair.pyramid, p.stages[0], p.stages[-1] + 1)
            assert p.mask is None or np.array_equal(p.mask.numpy(), wanted)
            out.append(p.mask is not None)
        return out

    assert masked(loop(gamma=2, mask=mask)) == [True, True]
    assert masked(loop(gamma=(0,), mask=mask)) == [True, True, True]
    assert masked(hand_off(1, mask)) == [True, False]
    assert masked(hand_off(0, mask)) == [False, False, False]  # sequential, whatever the mask


def test_redraft_takes_one_image() -> None:
    with pytest.raises(UserError, match="on_reject=redraft decodes images one by one: use batch=1"):
        decode(FakePair(), loop(gamma=2, on_reject="redraft"), [Unit(3, 0), Unit(4, 0)])


def cached(session: Any) -> list[list[int]]:
    """(position, digest) of each cached row of the first image."""
    kv = session.cache.kv[0, 0, 0, 0, : session.cache.length]
    return [[int(x) for x in row[1:]] for row in kv]


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n].trace])
def test_after_every_round_the_caches_hold_the_committed_stages(name: str) -> None:
    """And rows built from the committed codes, except for stale rows that the settings keep."""
    case = CASES[name]
    pair = FakePair(script=Script(misses={3: case.misses}))
    options = case.cell.strategy.params
    seen = []

    def watch(d: Any) -> None:
        prefixes = [digest([c for t in d.tokens[:k] for c in t[0].tolist()]) for k in range(d.committed)]
        fresh = [[i, prefixes[k]] for k in range(d.committed) for i in range(*d.pyramid.rows(k, k + 1).indices(99))]
        for role in ("draft", "target"):
            session = getattr(d, role)
            assert session.cache.length == d.pyramid.offsets[session.stage]
            rows = cached(session)
            if getattr(options, f"{role}_stale").value == "recompute":
                assert rows == fresh[: len(rows)]
            seen.append(rows == fresh[: len(rows)])
        if options.target_stale.value == "keep":
            assert d.target.stage == d.committed
        assert d.draft.stage <= d.committed

    d = run_watched(pair, case.cell, [Unit(3, 0)], watch)
    assert d.done
    kept = "keep" in (options.draft_stale.value, options.target_stale.value)
    stale = any(word in name for word in ("continue", "repair")) and kept and case.misses not in ({}, {2: 3})
    assert all(seen) != stale  # the cases with a replaced code in mid-round do leave stale rows somewhere


def test_the_gamma_trace_shows_what_was_decided() -> None:
    """Also where the last stage of a round is left to the target."""
    from sdvar_exp.runner.measuring.results import algorithm

    for cell, expected in (
        (loop(gamma=3, skip_last=True), "3,1"),
        (loop(gamma=3), "3,1"),
        (loop(gamma=(0, 2)), "0,2,1"),
        (loop(gamma=2, on_reject="redraft"), "2,1,1,1,1"),
    ):
        pair = FakePair(script=Script(misses={3: {0: 1}} if expected.startswith("2") else {}))
        assert algorithm(decode(pair, cell, [Unit(3, 0)]), 0)["gamma_trace"] == expected  # type: ignore[arg-type]
