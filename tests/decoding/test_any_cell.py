"""Cells drawn at random from the whole design space, whatever goes together: what holds of all of them at once.

The other files ask one thing of chosen cells; here rules, controllers, schedules, masks, sampling, options and batches meet.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from sdvar_exp.cell import Cell, Noise, Sampling, Unit
from sdvar_exp.decoding.api import check_cell, decode
from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.guarantees import batch_free, lossless
from sdvar_exp.errors import UserError
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import Choice, choose, names
from tests.decoding.cells import alone, flat, of_sequential, run_watched

RULES: dict[str, dict[str, list[Any]]] = {
    "match_rate": {"tau": [0.0, 0.3, 0.6, 0.9, 1.0], "mode": ["coupled", "argmax"], "repair": [False, False, True]},
    "always": {"until": [-1, 0, 1, 3, 5]},
    "kl": {"tau": [0.005, 0.02, 0.1]},
    "tv": {"tau": [0.02, 0.1, 0.2]},
    "neighbourhood": {"delta": [0.0, 0.1, 0.5], "k": [0, 3, 100]},
    "feature_distance": {"tau": [0.01, 0.1, 0.5]},
    "top_k": {"tau": [0.5, 0.9]},
    "typical": {"tau": [0.5, 0.9]},
}
CONTROLLERS: dict[str, dict[str, list[Any]]] = {
    "fixed": {"value": [1, 2, 3, 5]},
    "aimd": {"start": [1, 2, 4], "decrease": ["minus_one", "halve"]},
    "table": {"values": [(0,), (0, 2), (3, 0, 1), (4, 1)]},
    "token_budget": {"tokens": [1, 10, 30, 1000]},
    "acceptance_ema": {"prior": [0.2, 0.9]},
    "cost_model": {},
}
SCHEDULES: dict[str, dict[str, list[Any]]] = {
    "linear": {"cfg": [0.0, 1.5, 4.0]},
    "constant": {},
    "cosine": {},
    "power": {},
    "off": {},
    "interval": {"first": [0, 1], "last": [1, 2, 6]},
}
MASKS = ["block_causal"] * 4 + ["local_stages", "block_diagonal", "token_causal_blocks_entry_full"]


def draw(r: random.Random, kind: str, options: dict[str, dict[str, list[Any]]], known: list[str]) -> Choice:
    name = r.choice(known)
    return choose(kind, name, **{key: r.choice(values) for key, values in options.get(name, {}).items()})


def draw_cell(r: random.Random, rules: list[str]) -> Cell:
    """Any cell of the loop; some are refused."""
    ahead = r.choice(["bonus", "skip_last", ""])
    options: dict[str, Any] = {
        "on_reject": r.choice(["correct", "correct", "continue"]),
        "draft_stale": r.choice(["keep", "recompute"]),
        "target_stale": r.choice(["keep", "recompute"]),
        "draft_cfg": r.choice(["same", "same", "off", 0.0, 3.0]),
    }
    options |= {ahead: True} if ahead else {}
    strategy = r.choice(["dynamic_gamma", "hybrid"])
    options |= {"verify_until": r.randint(0, 5)} if strategy == "hybrid" else {}
    sampling = Sampling(
        r.choice([1.0, 0.5, 2.0]), r.choice([0, 0, 1, 3, 1000]), r.choice([0.0, 0.0, 0.3, 0.9, 1.0]), r.choice(list(Noise))
    )
    return Cell(
        choose("strategy", strategy, **options),
        draw(r, "cfg_schedule", SCHEDULES, list(SCHEDULES)),
        choose("mask", r.choice(MASKS)),
        draw(r, "acceptance", RULES, rules),
        draw(r, "gamma", CONTROLLERS, list(CONTROLLERS)),
        sampling,
    )


def caches_are_in_step(d: Decoder) -> None:
    """No cache holds more than is committed, nor other rows than it says."""
    for role in ("draft", "target"):
        session = d.sessions.get(role)
        if session is not None:
            assert session.cache.length == d.pyramid.offsets[session.stage] and session.stage <= d.committed


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_any_cell(near: Pair, far: Pair, same: Pair, seed: int) -> None:
    """S stages; f̂ and counts fit the tokens; promises are kept; what is free of γ and batch is so alone with another γ."""
    r, seen = random.Random(seed), Counter[str]()
    rules = [n for n in names("acceptance") if choose("acceptance", n).entry.function.__module__.startswith("sdvar_exp.")]
    while seen["decoded"] < 40:
        cell, pair = draw_cell(r, rules), r.choice([near, far, same])
        units = [Unit(r.randint(0, 9), r.randint(0, 3)) for _ in range(r.choice([1, 1, 2, 3]))]
        try:
            check_cell(cell, pair.pyramid.stages, units, pair.num_classes + 1)
        except UserError:
            seen["refused"] += 1
            continue
        said = f"{cell.as_dict()}, {units}, {pair.name}"
        d = run_watched(pair, cell, units, caches_are_in_step)
        out = decode(pair, cell, units)
        seen["decoded"] += 1
        assert d.done and torch.equal(torch.cat(d.tokens, dim=1), flat(out)), said
        assert torch.allclose(d.f_hats[-1], pair.vae.quantize.f_hats(out.tokens)[-1], atol=1e-10), said
        fed = sum(p.halves * pair.pyramid.count(p.first, p.stop) for p in out.passes if p.role == "target")
        assert fed == out.counts.target_rows, said
        if lossless(cell) == "tokens":
            seen["lossless"] += 1
            assert torch.equal(of_sequential(pair, cell, units), flat(out)), said
        if batch_free(cell):
            seen["free"] += 1
            other = replace(cell, gamma=choose("gamma", "fixed", value=r.randint(1, pair.pyramid.stages)))
            assert torch.equal(torch.stack([alone(pair, other, unit) for unit in units]), flat(out)), said
        if out.counts.target_calls_alone is not None:
            seen["alone"] += 1
            calls = tuple(decode(pair, cell, [unit], record=False).counts.target_calls for unit in units)
            assert out.counts.target_calls_alone == calls, said
    assert seen["free"] >= 4 and seen["alone"] >= 4 and seen["refused"], seen
