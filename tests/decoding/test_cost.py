"""The cost model against literal numbers, and its fit against times that it must recover."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import decode
from sdvar_exp.decoding.cost import (
    HARDWARE,
    DecodeCost,
    Hardware,
    ModelCost,
    features,
    fit,
    parameters,
    roofline_decode_ms,
    roofline_ms,
)
from sdvar_exp.decoding.records import Pass
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose
from tests.decoding.cells import loop
from tests.support import golden_pair

PYRAMID = Pyramid((1, 2, 3))


def test_literal_pass_and_decode() -> None:
    merged = Pass("target", 1, 3, 2)  # 13 rows, both halves, 14 keys
    assert features(PYRAMID, merged, 4).tolist() == [1, 104, 8 * (4 * 5 + 9 * 14), 1]
    cost = ModelCost(launch=2.0, row=0.5, context=0.01, run=0.25)
    assert cost.ms(PYRAMID, merged, 1) == pytest.approx(2 + 13 + 0.01 * 2 * (4 * 5 + 9 * 14) + 0.25)
    whole = DecodeCost({"target": cost, "draft": ModelCost(1.0, 0.0, 0.0)}, {"target": 0.1, "draft": 0.3}, {"draft": 7.0})
    assert whole.ms(PYRAMID, [merged, Pass("draft", 0, 1, 1)]) == pytest.approx(2 + 13 + 2.92 + 0.25 + 0.2 + 1 + 0.3 + 7)


def test_copies_of_a_stage_cost_like_further_stages() -> None:
    """Stages 0 and 1, and stage 1 twice more: 13 rows; a copy sees the stage before and itself."""
    tree = Pass("target", 0, 2, 1, branches=(1, 1))
    assert tree.stages == (0, 1, 1, 1) and tree.rows(PYRAMID) == 13
    assert features(PYRAMID, tree, 2).tolist() == [1, 26, 2 * (1 + 3 * 4 * 5), 3]
    device = Hardware("ideal", tflops=1e9, bandwidth=1, launch_us=0)  # memory alone counts
    for halves, batch in ((1, 1), (2, 3)):
        images = halves * batch
        moved = parameters(2, 64) + 2 * 2 * images * (5 + 8) * 64 + 16 * 2 * images * 13 * 64
        found = roofline_ms(device, 2, 64, PYRAMID, replace(tree, halves=halves), batch)
        assert found == pytest.approx(2 * moved / 1e9 * 1e3)


def test_a_proposer_costs_its_blocks_and_the_whole_head() -> None:
    target = ModelCost(launch=4.0, row=1.0, context=0.2, run=0.4)
    assert target.first_blocks(1.0, head=0.3) == target
    half = target.first_blocks(0.5, head=0.2)
    assert (half.launch, half.row, half.context, half.run) == pytest.approx((2.0, 0.5 + 0.5 * 0.2, 0.1, 0.2))
    cost = DecodeCost({"target": target}, {"target": 0.5}, {"target": 2.0}).with_proposer(0.5, head=0.2)
    one, by = Pass("target", 0, 1, 1), Pass("proposer", 0, 1, 1)
    assert cost.ms(PYRAMID, [one]) == pytest.approx(4 + 1 + 0.2 + 0.5 + 2)
    assert cost.ms(PYRAMID, [one, by]) == pytest.approx(7.7 + 2 + 0.6 + 0.1 + 0.5 + 1)
    hardware = HARDWARE["H100-SXM"]
    depths = {"target": 30, "proposer": 10}
    got = roofline_decode_ms(hardware, depths, PYRAMID, [by])
    assert got == roofline_ms(hardware, 10, 64 * 30, PYRAMID, by)


def test_attempts_at_a_residual_cost_their_tokens() -> None:
    cost = DecodeCost({"target": ModelCost(1.0, 0.0, 0.0)}, attempt=0.5)
    assert cost.ms(PYRAMID, [Pass("target", 0, 1, 1)], tries={0: 3, 2: 2}) == pytest.approx(1 + 0.5 * (3 * 1 + 2 * 9))
    assert cost.ms(PYRAMID, [], tries={}) == 0


def test_every_kind_of_decode_is_priced_by_its_forwards() -> None:
    """Priced by rows alone, a decode costs the rows that it counts: schedules, proposers, candidates, tries."""
    units = [Unit(1, 0), Unit(2, 0)]
    pair = golden_pair("tiny")
    cells = [
        *(
            replace(loop("exact", 3), strategy=choose("strategy", "model_schedule", stages=s))
            for s in ("T2 D2 T1", "T3 D1 t1", "T2 V2 o1", "T3 s2")
        ),
        loop("exact", 3, candidates=2),
        loop("stage_rejection", 3),
        *(
            replace(loop("exact", 3), proposer=choose("proposer", name))
            for name in ("none", "target_at_depth", "target_quantised")
        ),
    ]
    for cell in cells:
        out = decode(pair, cell, units)
        rows = DecodeCost({r: ModelCost(0.0, 1.0, 0.0) for r in ("target", "draft")}).with_proposer(1.0)
        fed = out.counts.target_rows + out.counts.draft_rows
        assert rows.ms(pair.pyramid, out.passes) == pytest.approx(fed), cell.as_dict()
        calls = DecodeCost({r: ModelCost(1.0, 0.0, 0.0) for r in ("target", "draft")}).with_proposer(1.0)
        assert calls.ms(pair.pyramid, out.passes) == pytest.approx(out.counts.target_calls + out.counts.draft_calls)
        tries = {s.stage: float(sum(s.tries)) for s in out.stages if s.tries is not None}
        assert bool(tries) == (cell.acceptance is not None and cell.acceptance.name == "stage_rejection")
        dear = replace(rows, attempt=1.0)
        assert dear.ms(pair.pyramid, out.passes, tries=tries) - fed == pytest.approx(
            sum(n * pair.pyramid.lengths[k] for k, n in tries.items())
        )


def test_an_early_exit_is_priced_by_its_blocks() -> None:
    pair, exits = golden_pair("tiny"), choose("strategy", "model_schedule", stages="T2 e2 T1", exit_depth=1)
    out = decode(pair, replace(loop("exact", 3), strategy=exits), [Unit(1, 0)])
    share = 1 / pair.target.depth
    rows = DecodeCost({"target": ModelCost(0.0, 1.0, 0.0)}).with_exit(share).ms(pair.pyramid, out.passes)
    assert rows == pytest.approx(2 * (30 + share * 25)) and rows <= out.counts.target_rows < rows + 1
    depths = {"target": 30, "exit": 10}
    one = Pass("exit", 2, 3, 2)
    assert roofline_decode_ms(HARDWARE["H100-SXM"], depths, PYRAMID, [one]) == roofline_ms(
        HARDWARE["H100-SXM"], 10, 64 * 30, PYRAMID, one
    )


def test_fit_recovers_what_made_the_times() -> None:
    cost = ModelCost(3.0, 0.02, 1e-4, 0.5)
    shapes = [(Pass("target", a, b, h), n) for a in range(3) for b in range(a + 1, 4) for h in (1, 2) for n in (1, 8)]
    rng = np.random.Generator(np.random.Philox(key=7))
    noisy = [(p, n, cost.ms(PYRAMID, p, n) * rng.lognormal(0, 0.01)) for p, n in shapes]
    found = fit(PYRAMID, noisy)
    assert found.launch == pytest.approx(3.0, rel=0.05) and found.row == pytest.approx(0.02, rel=0.1)
    exact = fit(PYRAMID, [(p, n, cost.ms(PYRAMID, p, n)) for p, n in shapes])
    assert (exact.launch, exact.row, exact.context, exact.run) == pytest.approx((3.0, 0.02, 1e-4, 0.5), rel=1e-6)


def test_roofline_is_memory_bound_for_few_rows_and_compute_bound_for_many() -> None:
    assert parameters(30, 1920) == 30 * 12 * 1920**2 + 4096 * 1920
    device = Hardware("ideal", tflops=100, bandwidth=1000, launch_us=0)
    official = Pyramid((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    first, last = Pass("target", 0, 1, 1), Pass("target", 9, 10, 2)
    weights_ms = 2 * parameters(30, 1920) / 1000e9 * 1e3
    assert roofline_ms(device, 30, 1920, official, first) == pytest.approx(weights_ms, rel=0.01)
    rows, keys = 2 * 8 * 256, 680
    flops = 2 * rows * parameters(30, 1920) + 4 * 30 * rows * keys * 1920
    assert roofline_ms(device, 30, 1920, official, last, batch=8) == pytest.approx(flops / 100e12 * 1e3)
    peaks = {"A100-80G": (312, 2039), "H100-SXM": (989, 3350), "H200-SXM": (989, 4800), "RTX-4090": (165, 1008)}
    for h in HARDWARE.values():  # the vendors' data sheets
        assert (h.tflops / 0.6, h.bandwidth / 0.8, h.launch_us, h.bytes) == pytest.approx((*peaks.pop(h.name), 4, 2))
    assert not peaks


def test_a_decode_reports_every_forward() -> None:
    pair = golden_pair("tiny")
    out = decode(pair, Cell(choose("strategy", "sequential")), [Unit(1, 0)], record=False)
    stages = pair.pyramid.stages
    assert [(p.role, p.first, p.stop) for p in out.passes] == [("target", k, k + 1) for k in range(stages)]
    assert sum(p.halves * pair.pyramid.count(p.first, p.stop) for p in out.passes) == out.counts.target_rows
    cell = Cell(
        choose("strategy", "parallel_v1"),
        mask=choose("mask", "block_causal"),
        acceptance=choose("acceptance", "never"),
        gamma=choose("gamma", "fixed", value=2),
    )
    out = decode(pair, cell, [Unit(1, 0), Unit(2, 0)], record=False)
    by_role = {
        r: sum(p.halves * pair.pyramid.count(p.first, p.stop) for p in out.passes if p.role == r) for r in ("target", "draft")
    }
    assert by_role == {"target": out.counts.target_rows, "draft": out.counts.draft_rows}


def test_a_measured_profile_prices_calls_and_rows_and_counts_passes(tmp_path: Path) -> None:
    from benchmarks.profile import pass_rates, profile_of
    from sdvar_exp.decoding.gamma.cost_model import CostModel

    cost = DecodeCost({"target": ModelCost(2.0, 0.5, 0.01), "draft": ModelCost(1.0, 0.1, 0.0)}, {"target": 0.25, "draft": 0.0})
    found = profile_of(cost, [1.0, 0.123456, 0.0], PYRAMID, "by hand")
    keys = (1 * 1 + 4 * 5 + 9 * 14) / 14
    assert (found["target_call"], found["draft_call"], found["draft_row"]) == (2.25, 1.0, 0.2)
    assert found["target_row"] == pytest.approx(2 * (0.5 + 0.01 * keys), rel=1e-3)
    assert found["pass_rate"] == [1.0, 0.1235, 0.0]
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(found))
    assert len(CostModel(profile=str(path)).digest) > 0  # it is one that the controller takes

    pair, units = golden_pair("tiny"), [Unit(i % 3, i) for i in range(4)]
    rates = pass_rates(pair, units)
    assert len(rates) == pair.pyramid.stages and all(r in (0, 0.25, 0.5, 0.75, 1) for r in rates) and sum(rates) > 0
    twins = replace(pair, draft=pair.target)
    assert pass_rates(twins, units) == [1.0] * pair.pyramid.stages
