"""`gamma=margin`: the round is drafted up to the first stage of which too many tokens are expected to flip."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import decode
from sdvar_exp.decoding.api import check_cell
from sdvar_exp.decoding.gamma import GammaContext, next_gamma
from sdvar_exp.errors import UserError
from sdvar_exp.models.pair import Pair
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose
from tests.decoding.cells import alone, flat, loop, of_sequential, run_watched

UNITS = [Unit(1, 0), Unit(7, 3)]


def asked(margins: tuple[Any, ...], stage: int = 0, **params: Any) -> tuple[int, str]:
    context = GammaContext(stage, 5, Pyramid((1, 2, 3, 4, 5)), (), margins)
    return next_gamma(choose("gamma", "margin", **params), context)


def test_by_hand() -> None:
    """chance ½, scale 2: margins 0 and 2·ln 2 flip with ½ and ¼."""
    p: dict[str, Any] = {"chance": 0.5, "scale": 2.0}
    one, sure = ((0.0, 2 * math.log(2)),), ((math.inf, 99.0),)
    assert asked((), **p) == (1, "0.00 flips expected so far")
    assert asked((one,), flips=0.76, **p) == (2, "0.75 flips expected so far")
    assert asked((one,), flips=0.74, **p) == (1, "0.75 flips expected at stage 0")
    assert asked((sure, one), flips=0.74, **p)[0] == 2
    assert asked((sure, one, sure), flips=0.76, **p)[0] == 4
    assert asked((sure, sure), flips=0.5, largest=2, **p)[0] == 2
    assert asked((sure, sure), stage=3, flips=0.5, **p)[0] == 2, "cut to the stages that are left"
    assert asked((sure + one,), flips=0.74, **p)[0] == 1, "the least sure image of a batch decides"


@pytest.mark.parametrize("flips", [0.0, 0.3, 2.0, 1e6])
def test_rounds_end_where_the_controller_says(near: Pair, flips: float) -> None:
    """The margins it was asked with are those of the proposal; tokens are the sequential target's."""
    controller = choose("gamma", "margin", flips=flips)
    cell = loop("exact", controller)
    d = run_watched(near, cell, UNITS, lambda _: None)
    assert torch.equal(torch.cat(d.tokens, dim=1), of_sequential(near, cell, UNITS))
    for past in d.rounds:
        assert past.gamma == past.proposed >= 1
        margins = []
        for k in range(past.first, past.first + past.committed):
            view = d.judged[k].view
            gap = (view.draft_processed + d.noise.gumbel(d._stream["draft"], k)).topk(2, dim=-1).values
            torch.testing.assert_close(view.margin_Bl, gap[..., 0] - gap[..., 1], rtol=0, atol=0)
            margins.append(tuple(map(tuple, view.margin_Bl.tolist())))
        context = GammaContext(past.first, d.stages, d.pyramid, (), tuple(margins))
        assert next_gamma(controller, context)[0] >= len(margins)
    traces = {0.0: {1}, 1e6: {5}}
    if flips in traces:
        assert {r.gamma for r in d.rounds if r.first == 0} == traces[flips]


def test_it_changes_calls_and_no_token_of_a_lossy_rule(near: Pair) -> None:
    rate = choose("acceptance", "match_rate", tau=0.9)
    out = decode(near, loop(rate, choose("gamma", "margin", flips=0.5)), UNITS)
    for row, unit in enumerate(UNITS):
        assert torch.equal(alone(near, loop(rate, 1), unit), flat(out)[row])
    assert out.counts.target_calls_alone is None


def test_bad_input() -> None:
    for params, message in (
        ({"flips": -1}, "gamma.flips must be ≥ 0 and finite, got -1"),
        ({"chance": 1.5}, r"gamma.chance must lie in \[0, 1\], got 1.5"),
        ({"scale": 0}, "gamma.scale must be > 0 and finite, got 0"),
        ({"largest": 0}, "gamma.largest must be ≥ 1, got 0"),
    ):
        with pytest.raises(UserError, match=message):
            choose("gamma", "margin", **params)
    assert asked((((0.5 * math.log(2),),),), chance=1.0, scale=0.5, flips=0.51) == (2, "0.50 flips expected so far")
    with pytest.raises(UserError, match=r"gamma=margin reads .*: use strategy\.skip_last=false"):
        check_cell(loop("exact", choose("gamma", "margin"), skip_last=True), 5)
    controller = choose("gamma", "margin")
    controller.entry.meta["check"](Cell(choose("strategy", "sequential"), gamma=controller), 5)  # it has no such option
