"""The cost model against literal numbers, and its fit against times that it must recover."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdvar_exp.decoding.cost import HARDWARE, DecodeCost, Hardware, ModelCost, features, fit, parameters, roofline_ms
from sdvar_exp.decoding.records import Pass
from sdvar_exp.pyramid import Pyramid

PYRAMID = Pyramid((1, 2, 3))


def test_literal_pass_and_decode() -> None:
    merged = Pass("target", 1, 3, 2)  # 13 rows, both halves, 14 keys
    assert features(PYRAMID, merged, 4).tolist() == [1, 104, 8 * (4 * 5 + 9 * 14), 1]
    cost = ModelCost(launch=2.0, row=0.5, context=0.01, run=0.25)
    assert cost.ms(PYRAMID, merged, 1) == pytest.approx(2 + 13 + 0.01 * 2 * (4 * 5 + 9 * 14) + 0.25)
    whole = DecodeCost({"target": cost, "draft": ModelCost(1.0, 0.0, 0.0)}, {"target": 0.1, "draft": 0.3}, {"draft": 7.0})
    assert whole.ms(PYRAMID, [merged, Pass("draft", 0, 1, 1)]) == pytest.approx(2 + 13 + 2.92 + 0.25 + 0.2 + 1 + 0.3 + 7)


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
    assert {"A100-80G", "H100-SXM", "H200-SXM", "RTX-4090"} == set(HARDWARE)


def test_a_decode_reports_every_forward() -> None:
    from sdvar_exp.cell import Cell, Unit
    from sdvar_exp.decoding import decode
    from sdvar_exp.registry import choose
    from tests.support import golden_pair

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
    from sdvar_exp.cell import Unit
    from sdvar_exp.decoding.gamma.cost_model import CostModel
    from tests.support import golden_pair

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
