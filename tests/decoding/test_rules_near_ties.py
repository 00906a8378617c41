"""Thresholds that rounding may turn: of every rule, of top-k and of top-p.

A threshold that exact arithmetic meets exactly falls on one side whatever the sums round to. Elsewhere the margin of a
verdict says how far the outcome lies from another one: below it no perturbation of the logits changes anything.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from sdvar_exp.cell import Cell, Noise, Sampling, Unit
from sdvar_exp.decoding import decode, sampling
from sdvar_exp.decoding.acceptance.neighbourhood import nearest_codes
from sdvar_exp.decoding.evidence import StageView, Verdict
from sdvar_exp.decoding.noise import NoiseBook, Stream
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose
from tests.decoding.cells import flat, loop
from tests.decoding.toy import ToyPair

PYRAMID = Pyramid((1, 2))
CODEBOOK = torch.tensor([[0.0], [1.0], [2.5], [4.5], [5.0], [7.0]])
V = len(CODEBOOK)


def stage(p_BlV: torch.Tensor, q_BlV: torch.Tensor, book: NoiseBook, **options: Any) -> StageView:
    """Stage 1 of two models with these logits; the draft samples its tokens under the noise."""
    s = Sampling(**options)
    g = book.gumbel(Stream.draft if s.noise is Noise.independent else Stream.target, 1)
    tokens = sampling.gumbel_argmax(sampling.process(q_BlV, s), g)

    def value(tokens_Bl: torch.Tensor) -> torch.Tensor:
        return CODEBOOK.to(p_BlV.dtype)[tokens_Bl][..., 0]

    return StageView(1, tokens, q_BlV, p_BlV, s, book, value, torch.ones(len(tokens), 4, dtype=p_BlV.dtype), CODEBOOK)


def judge(name: str, view: StageView, **params: Any) -> Verdict:
    choice = choose("acceptance", name, **params)
    return choice.entry.function(choice.params, view)


def book(images: int) -> NoiseBook:
    return NoiseBook(PYRAMID, V, [Unit(0, seed) for seed in range(images)])


def drawn(images: int, seed: int, dtype: torch.dtype = torch.float64, near: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.randn(2, images, 4, V, generator=generator, dtype=torch.float64).to(dtype) * 1.5
    return p, p + near * (q - p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("top_p", [0.0, 0.5, 0.9])
def test_codes_that_may_lend_everything_always_do(dtype: torch.dtype, top_p: float) -> None:
    """δ = 1 and all codes near: the whole mass is lent, also where its sum rounds to more than 1 (top-p took the draft's)."""
    view = stage(*drawn(500, 1, dtype), book(500), top_p=top_p)
    assert judge("neighbourhood", view, k=100, delta=1.0).accepted_Bl.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_that_are_met_exactly_pass(dtype: torch.dtype) -> None:
    p, q = drawn(300, 2, dtype)
    g, one = book(300), torch.arange(300) % V
    apart = [torch.full((300, 4, V), -40.0, dtype=dtype) for _ in range(2)]  # each model certain, of different codes
    apart[0][torch.arange(300), :, one], apart[1][torch.arange(300), :, (one + 1) % V] = 40.0, 40.0
    for view in (stage(p, q, g, top_k=1), stage(*apart, g), stage(p, q, g, top_k=2)):
        assert judge("tv", view, tau=1.0).passed_B.all()
    wobble = p * (1 + 4 * torch.finfo(dtype).eps)  # one distribution, from another pass
    for options in ({}, {"top_k": 2}):
        assert judge("kl", stage(wobble, p, g, **options), tau=0.0).passed_B.all()


def test_a_slack_is_relative_where_zero_means_never() -> None:
    """δ = 0 lends nothing at all, θ = 0 takes any probability above 0."""
    p, q = drawn(400, 3)
    p[..., 0] -= 30.0  # of the order of the slack and below
    view = stage(p, q, book(400))
    lent, plain = judge("neighbourhood", view, k=V, delta=0.0), judge("rejection", view)
    assert torch.equal(lent.accepted_Bl, plain.accepted_Bl) and torch.equal(lent.corrected_Bl, plain.corrected_Bl)
    assert judge("top_k", view, k=0, theta=0.0).accepted_Bl.all()


def test_nearest_codes_do_not_depend_on_how_many_are_asked_for() -> None:
    """A lattice has many codes at equal distance; their order is that of the code book, in any batch."""
    side = torch.linspace(-1, 1, 6)
    codebook = torch.cartesian_prod(side, side, side) / 3
    tokens = torch.arange(len(codebook)).view(4, -1)
    whole = nearest_codes(codebook, tokens, 20)
    for row, one in enumerate(tokens):
        for position in range(0, len(one), 7):
            assert torch.equal(nearest_codes(codebook, one[None, position : position + 1], 20)[0, 0], whole[row, position])


RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("exact", {}),
    "never": ("never", {}),
    "always": ("always", {}),
    "rejection": ("rejection", {}),
    "of the stage": ("stage_rejection", {}),
    "half match": ("match_rate", {"tau": 0.5}),
    "repaired": ("match_rate", {"tau": 0.25, "repair": True}),
    "half match the best": ("match_rate", {"tau": 0.5, "mode": "argmax"}),
    "half listed": ("top_k", {"k": 2, "tau": 0.5}),
    "listed or likely": ("top_k", {"k": 1, "theta": 0.3, "tau": 0.75}),
    "likely": ("top_k", {"k": 0, "theta": 0.3, "tau": 0.5}),
    "kl": ("kl", {"tau": 0.4}),
    "tv": ("tv", {"tau": 0.35}),
    "typical": ("typical", {"epsilon": 0.3, "alpha": 0.7, "tau": 0.75}),
    "lent": ("neighbourhood", {"k": 3, "delta": 0.4}),
    "lent much": ("neighbourhood", {"k": 5, "delta": 1.0}),
    "feature_distance": ("feature_distance", {"tau": 0.25}),
}


def outcome(name: str, view: StageView) -> tuple[Verdict, torch.Tensor]:
    rule, params = RULES[name]
    verdict = judge(rule, view, **params)
    passing = view.draft_tokens_Bl
    if params.get("repair"):
        passing = torch.where(verdict.accepted_Bl, passing, view.target_tokens_Bl)
    return verdict, torch.where(verdict.passed_B[:, None], passing, verdict.corrected_Bl)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"top_p": 0.8}, {"top_k": 4, "top_p": 0.9, "noise": Noise.independent}], ids=str
)
@pytest.mark.parametrize("name", RULES)
def test_no_perturbation_below_the_margin_changes_an_outcome(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits moved by a tenth of the margin asked for: outcomes that are not near-ties stay, and some near-ties do turn."""
    near, images = (0.012 if name == "of the stage" else 0.004), 1000
    monkeypatch.setattr(sampling, "NEAR_TIE", near)
    monkeypatch.setattr(sampling, "near_tie", lambda _: near)
    (p, q), noise = drawn(images, 5, near=0.4), book(images)
    verdict, tokens = outcome(name, stage(p, q, noise, **options))
    assert verdict.margin_B is not None
    safe = verdict.margin_B() >= near
    assert safe.shape == (images,) and safe.double().mean() > (0.05 if name == "of the stage" else 0.4)
    generator, turned = torch.Generator().manual_seed(7), torch.zeros(images, dtype=torch.bool)
    for _ in range(4):
        move = (torch.rand(2, *p.shape, generator=generator, dtype=torch.float64) - 0.5).sign() * near / 10
        other, moved = outcome(name, stage(p + move[0], q + move[1], noise, **options))
        turned |= (moved != tokens).any(dim=1) | (other.passed_B != verdict.passed_B)
    assert not (turned & safe).any(), int((turned & safe).sum())
    assert turned.any()


def test_ties_at_the_cut_of_top_k_are_near_ties() -> None:
    """Codes that tie with the k-th stay by equality alone: any rounding takes one of them away."""
    g = torch.tensor([[[0.0, 0.0, 9.0, 0.0]]], dtype=torch.float64)
    tied = torch.tensor([[[3.0, 2.0, 2.0, 0.0]]], dtype=torch.float64)
    assert sampling.margin(tied, g, Sampling(top_k=2)).item() == 0
    assert sampling.margin(tied, g, Sampling(top_k=3)).item() == 2.0


# --- whole decodes --------------------------------------------------------------------------------------------------------

PAIRS = {"near": ToyPair(), "same": ToyPair(distance=0.0)}
ANY: dict[str, list[dict[str, Any]]] = {
    "neighbourhood": [{"k": k, "delta": d} for k in (1, 2, 100) for d in (0.0, 0.2, 0.5, 1.0)],
    "tv": [{"tau": t} for t in (0.0, 0.25, 0.5, 1.0)],
    "kl": [{"tau": t} for t in (0.0, 0.1)],
    "typical": [{"epsilon": e, "alpha": a, "tau": t} for e in (0.1, 1.0) for a in (0.3, 1.0) for t in (0.5, 1.0)],
    "top_k": [{"k": k, "theta": h, "tau": t} for k in (0, 1, 3) for h in (0.0, 0.5, 1.0) for t in (0.5, 1.0)],
    "match_rate": [{"tau": t, "mode": m} for t in (0.25, 0.5, 1.0) for m in ("coupled", "argmax")],
    "rejection": [{}],
    "stage_rejection": [{}],
    "exact": [{}],
}


def check_any_cell(r: random.Random) -> bool:
    """Tokens of a batch at the largest γ are those of each image alone at γ = 1; so are the calls that it would need."""
    name = r.choice(list(ANY))
    rule = choose("acceptance", name, **r.choice(ANY[name]))
    s = Sampling(r.choice([1.0, 0.5, 2.0]), r.choice([0, 0, 1, 2, 3]), r.choice([0.0, 0.3, 0.5, 0.9]), r.choice(list(Noise)))
    schedule = choose("cfg_schedule", r.choice(["linear", "off"]))
    cell = replace(loop(rule, 3, schedule=schedule), sampling=s)
    pair: Any = PAIRS[r.choice(list(PAIRS))]
    units = [Unit(0, r.randint(0, 10**6)) for _ in range(2)]
    out, said = decode(pair, cell, units), f"{cell.as_dict()} {units}"
    for row, unit in enumerate(units):
        one = decode(pair, replace(cell, gamma=choose("gamma", "fixed", value=1)), [unit])
        assert torch.equal(flat(one)[0], flat(out)[row]), said
        calls = out.counts.target_calls_alone
        if calls is not None and calls[row] is not None:
            assert calls[row] == decode(pair, cell, [unit], record=False).counts.target_calls, said
    assert out.near_tie_stages is not None
    return sum(out.near_tie_stages) == 0


@pytest.mark.long
def test_tokens_are_free_of_gamma_and_batch_at_every_threshold() -> None:
    r = random.Random(0)
    assert sum(check_any_cell(r) for _ in range(80)) > 74  # and hardly any is excused as a near-tie


@pytest.mark.long
def test_tokens_are_free_of_gamma_and_batch_at_every_threshold_many_times() -> None:
    r = random.Random(1)
    assert sum(check_any_cell(r) for _ in range(1500)) > 1450


def test_near_ties_are_counted_and_leave_the_calls_alone_open(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, units = loop(choose("acceptance", "match_rate"), 2), [Unit(0, 1), Unit(0, 2)]
    pair: Any = PAIRS["near"]
    clear = decode(pair, cell, units)
    assert clear.near_tie_stages == (0, 0)
    assert clear.counts.target_calls_alone is not None and None not in clear.counts.target_calls_alone
    monkeypatch.setattr("sdvar_exp.decoding.outcomes.near_tie", lambda dtype: 1e9 if dtype == torch.float64 else 0.0)
    close = decode(pair, cell, units)
    assert close.near_tie_stages == (3, 3) and close.counts.target_calls_alone == (None, None)
    assert decode(pair, cell, units, record=False).near_tie_stages is None


@pytest.mark.parametrize("cell", [Cell(choose("strategy", "sequential")), loop("exact", (0,))], ids=["sequential", "loop"])
def test_what_the_target_samples_alone_counts_too(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    pair: Any = PAIRS["near"]
    assert decode(pair, cell, [Unit(0, 4)]).near_tie_stages == (0,)
    monkeypatch.setattr("sdvar_exp.decoding.outcomes.near_tie", lambda _: 1e9)
    assert decode(pair, cell, [Unit(0, 4)]).near_tie_stages == (3,)
