"""`rejection` commits the target's own distribution: whole images of the real loop against the enumerated one.

The statistic is χ² over all 4096 images of the toy pair (joint over its three stages), cells with an expectation below 5
merged. False alarms: a lossless decoder with other seeds would fail a test with probability 1e-6; the seeds are fixed, so a
test that passes keeps passing. The negative controls are decoders with one deliberate mistake; the same statistic must
reject each at the same threshold, from a fifth of the samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sdvar_exp.cell import Cell, Sampling, Unit
from sdvar_exp.decoding import decode
from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.evidence import StageView
from sdvar_exp.decoding.noise import NoiseBook, Stream
from sdvar_exp.decoding.sampling import gumbel_argmax
from sdvar_exp.decoding.session import ModelSession
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import choose
from tests.decoding import toy
from tests.decoding.cells import UNITS, flat, loop
from tests.decoding.toy import ToyPair, exact, images, in_bulk

FALSE_ALARM = 1e-6
OFF, GUIDED = choose("cfg_schedule", "off"), choose("cfg_schedule", "constant", cfg=1.0)
PAIR = ToyPair()


def noise_of(seeds: range) -> toy.Noise:
    return toy.Noise([Unit(0, seed) for seed in seeds])


@pytest.fixture(scope="module")
def many() -> toy.Noise:
    return noise_of(range(100_000))


@pytest.fixture(scope="module")
def fewer() -> toy.Noise:
    return noise_of(range(100_000, 120_000))


def p_value(tokens_BL: torch.Tensor, probability: np.ndarray) -> float:
    """χ² of the drawn images against the exact distribution; 0 if one was drawn that cannot be."""
    observed, expected = images(tokens_BL), probability * len(tokens_BL)
    if observed[expected == 0].any():
        return 0.0
    rare = expected < 5
    if expected[rare].sum() < 5:  # not enough for a cell of its own
        rare = expected <= np.sort(expected)[int(rare.sum())]
    cells = [np.append(x[~rare], x[rare].sum()) for x in (observed, expected)]
    return float(stats.chisquare(*cells).pvalue)


def sampled(cell: Cell, **sampling: Any) -> Cell:
    return replace(cell, sampling=Sampling(**sampling))


# cell, images of a batch
CELLS: dict[str, tuple[Cell, int]] = {
    "plain, γ = 3": (loop("rejection", 3, schedule=OFF), 1),
    "top-k, in batches": (loop("rejection", choose("gamma", "aimd", start=2), schedule=OFF, top_k=2), 2),
    "top-p, guided": (sampled(loop("rejection", (2, 1, 1), schedule=GUIDED), top_p=0.8), 1),
}
MORE: dict[str, tuple[Cell, int]] = {
    "γ = 1": (loop("rejection", 1, schedule=OFF), 1),
    "guided, proposals not": (loop("rejection", 2, schedule=GUIDED, draft_cfg="off"), 1),
    "guided by stage, acceptance_ema": (
        loop(
            "rejection",
            choose("gamma", "acceptance_ema", prior=0.9, decay=0.5, threshold=0.4),
            schedule=choose("cfg_schedule", "linear", cfg=2.0),
        ),
        1,
    ),
    "independent noise, token_budget": (
        loop("rejection", choose("gamma", "token_budget", tokens=4), schedule=OFF, noise="independent"),
        3,
    ),
    "everything, in batches": (
        sampled(loop("rejection", choose("gamma", "cost_model"), schedule=GUIDED), temperature=0.8, top_k=3, top_p=0.9),
        4,
    ),
    "bonus": (loop("rejection", 1, schedule=OFF, bonus=True), 1),
    "target alone at first": (loop("rejection", (0, 2), schedule=OFF), 1),
}


def check(name: str, noise: toy.Noise) -> None:
    cell, batch = (CELLS | MORE)[name]
    tokens = in_bulk(PAIR, cell, noise.select(np.arange(len(noise.units) // batch * batch)), batch)
    assert p_value(tokens, exact(PAIR, cell)) > FALSE_ALARM


@pytest.mark.parametrize("name", CELLS)
def test_rejection_commits_the_joint_distribution_of_the_target(name: str, many: toy.Noise) -> None:
    check(name, many)


@pytest.mark.long
@pytest.mark.parametrize("name", MORE)
def test_rejection_commits_it_under_any_other_setting(name: str, many: toy.Noise) -> None:
    check(name, many)


# --- the tool itself -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CELLS | MORE)
def test_units_in_bulk_are_decoded_as_though_alone(name: str) -> None:
    cell, batch = (CELLS | MORE)[name]
    bulk = in_bulk(PAIR, cell, noise_of(range(36)), batch)
    for i in range(0, 36, batch):
        out = decode(PAIR, cell, [Unit(0, seed) for seed in range(i, i + batch)], record=False)  # type: ignore[arg-type]
        assert torch.equal(flat(out), bulk[i : i + batch])


def test_the_noise_in_bulk_is_the_noise() -> None:
    bulk, book = noise_of(range(5)), NoiseBook(toy.PYRAMID, toy.V, [Unit(0, seed) for seed in range(5)])
    for stage in range(toy.S):
        assert torch.equal(bulk.uniform(stage), book.uniform(stage))
        for stream in (Stream.draft, Stream.target, Stream.residual):
            assert torch.equal(bulk.gumbel(stream, stage), book.gumbel(stream, stage))


@pytest.mark.parametrize("name", CELLS)
def test_the_exact_distribution_is_that_of_the_target_alone(name: str, fewer: toy.Noise) -> None:
    cell = CELLS[name][0].baseline()
    probability = exact(PAIR, cell)
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    assert p_value(in_bulk(PAIR, cell, fewer), probability) > FALSE_ALARM


def test_the_toy_passes_and_fails_stages_everywhere() -> None:
    """Otherwise nothing is dropped, or nothing is committed behind a passed stage."""
    cell = CELLS["plain, γ = 3"][0]
    rounds = [decode(PAIR, cell, [Unit(0, seed)], record=False).rounds for seed in range(60)]  # type: ignore[arg-type]
    assert {(r.first, r.passed) for rs in rounds for r in rs} >= {(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 1)}


# --- negative controls: one mistake each ---------------------------------------------------------------------------------


def stages_kept(patch: pytest.MonkeyPatch) -> None:
    """After a reject, the deeper proposals, made for another prefix, are committed as they are."""
    right = Decoder.commit

    def commit(d: Decoder, proposal: Any, verdicts: Any, count: int, *rest: Any) -> None:
        right(d, proposal, verdicts, count, *rest)
        for tokens in proposal.tokens[count:]:
            d._append(tokens)

    patch.setattr(Decoder, "commit", commit)


def features_kept(patch: pytest.MonkeyPatch) -> None:
    """After a reject, f̂ stays the one of the rejected tokens."""
    right = Decoder._settled
    patch.setattr(Decoder, "_settled", staticmethod(lambda *judged: (right(*judged)[0], True)))


def raw_q(patch: pytest.MonkeyPatch) -> None:
    """q before top-k, though the draft sampled after it."""
    patch.setattr(StageView, "q", property(lambda view: view.draft_logits_BlV.softmax(dim=-1)))


def residual_from_the_drafts_noise(patch: pytest.MonkeyPatch) -> None:
    def residual_sample(view: StageView) -> torch.Tensor:
        return gumbel_argmax((view.p - view.q).clamp_min(0).log(), view.noise.gumbel(Stream.target, view.stage))

    patch.setattr(StageView, "residual_sample", residual_sample)


def target_token(patch: pytest.MonkeyPatch) -> None:
    """The target's sample in place of one from the residual, its noise independent of the draft's."""
    patch.setattr(StageView, "residual_sample", lambda view: view.target_tokens_Bl)


def conditional_half(patch: pytest.MonkeyPatch) -> None:
    right = ModelSession._guide

    def guide(session: ModelSession, logits: torch.Tensor, first: int, stop: int) -> torch.Tensor:
        unguided = session.model is PAIR.target  # type: ignore[comparison-overlap]
        return logits[: session.batch] if unguided else right(session, logits, first, stop)

    patch.setattr(ModelSession, "_guide", guide)


def uniforms_from_the_samples_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(toy.Noise, "uniform", lambda noise, k: noise.gumbel(Stream.target, k)[..., 0].exp().neg().exp().double())


CONTROLS: list[tuple[Callable[[pytest.MonkeyPatch], None], Cell]] = [
    (stages_kept, CELLS["plain, γ = 3"][0]),
    (features_kept, CELLS["plain, γ = 3"][0]),
    (raw_q, CELLS["top-k, in batches"][0]),
    (residual_from_the_drafts_noise, CELLS["plain, γ = 3"][0]),
    (target_token, CELLS["plain, γ = 3"][0]),
    (target_token, MORE["independent noise, token_budget"][0]),
    (conditional_half, CELLS["top-p, guided"][0]),
    (conditional_half, MORE["guided by stage, acceptance_ema"][0]),
    (uniforms_from_the_samples_noise, CELLS["plain, γ = 3"][0]),
]


@pytest.mark.parametrize(("wrong", "cell"), CONTROLS, ids=[f"{f.__name__}-{i}" for i, (f, _) in enumerate(CONTROLS)])
def test_negative_controls(wrong: Callable[[pytest.MonkeyPatch], None], cell: Cell, fewer: toy.Noise) -> None:
    with pytest.MonkeyPatch.context() as patch:
        wrong(patch)
        assert p_value(in_bulk(PAIR, cell, fewer), exact(PAIR, cell)) < FALSE_ALARM


@pytest.mark.parametrize(
    "cell",
    [
        loop("rejection", 3, schedule=OFF, on_reject="continue"),
        loop(choose("acceptance", "neighbourhood", k=2, delta=0.4), 3, schedule=OFF),
        loop("rejection", 2, schedule=OFF, until=2),
    ],
)
def test_negative_controls_that_are_settings(cell: Cell, fewer: toy.Noise) -> None:
    assert p_value(in_bulk(PAIR, cell, fewer), exact(PAIR, cell)) < FALSE_ALARM


# --- neighbourhood -------------------------------------------------------------------------------------------------------


def test_neighbourhood_that_lends_nothing_is_rejection_token_for_token(near: Pair, far: Pair) -> None:
    noise = noise_of(range(3000))
    for k, delta in ((10, 0.0), (0, 0.5)):
        rule = choose("acceptance", "neighbourhood", k=k, delta=delta)
        for cell, batch in CELLS.values():
            lent = in_bulk(PAIR, replace(cell, acceptance=rule), noise, batch)
            assert torch.equal(lent, in_bulk(PAIR, cell, noise, batch))
        for pair in (near, far):
            outs = [decode(pair, loop(r, 3, top_k=5), UNITS) for r in (rule, choose("acceptance", "rejection"))]
            assert torch.equal(*map(flat, outs))
            assert outs[0].rounds == outs[1].rounds
