"""`stage_rejection`: what it commits is drawn from P, whole stages at once, and it passes as often as any such test can.

χ² over the 64 stages of three tokens of four codes. False alarms: a lossless rule with other seeds would fail one test with
probability 1e-6; the seeds are fixed. Each negative control is the rule with one mistake, and is rejected at the same
threshold from a fifth of the samples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.overrides import TorchFunctionMode

from sdvar_exp.cell import Noise, Sampling, Unit
from sdvar_exp.decoding import decode, residual
from sdvar_exp.decoding.evidence import StageView, Verdict
from sdvar_exp.decoding.noise import NoiseBook, Stream
from sdvar_exp.decoding.residual import draw_stage
from sdvar_exp.decoding.sampling import gumbel_argmax, process
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose
from tests.decoding import toy
from tests.decoding.cells import loop
from tests.decoding.toy import V, distribution, exact, in_bulk

FALSE_ALARM = 1e-6
STAGE = 2  # three tokens
P, MOVE = 1.2 * np.random.default_rng(10).normal(size=(2, 3, V))
Q = P + 0.7 / 1.2 * MOVE
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "top-k": {"top_k": 2},
    "top-p": {"top_p": 0.8},
    "cold": {"temperature": 0.7},
}


def view_of(seeds: range, p: np.ndarray = P, q: np.ndarray = Q, shared: bool = False, **sampling: Any) -> StageView:
    """The stage many times, each with noise of its own."""
    noise = toy.Noise([Unit(0, seed) for seed in seeds])
    s = Sampling(**sampling, noise=Noise.shared if shared else Noise.independent)
    logits = [torch.tensor(x).expand(len(seeds), -1, -1) for x in (q, p)]
    g = noise.gumbel(Stream.target if shared else Stream.draft, STAGE)
    tokens = gumbel_argmax(process(logits[0], s), g)
    return StageView(STAGE, tokens, *logits, s, noise, lambda t: t, torch.zeros(1), torch.eye(V))


def judge(view: StageView, rule: str = "stage_rejection") -> Verdict:
    choice = choose("acceptance", rule)
    return choice.entry.function(choice.params, view)


def committed(view: StageView, verdict: Verdict) -> torch.Tensor:
    return torch.where(verdict.passed_B[:, None], view.draft_tokens_Bl, verdict.corrected_Bl)


def joint(logits_lV: np.ndarray, **sampling: Any) -> np.ndarray:
    """Probability of each of the 64 stages, token i counted V^i."""
    first, second, third = distribution(logits_lV, **sampling)
    return np.einsum("i,j,k->kji", first, second, third).ravel()


def p_value(tokens_Bl: torch.Tensor, probability: np.ndarray) -> float:
    number = (tokens_Bl * torch.tensor([V**i for i in range(3)])).sum(dim=1)
    observed = torch.bincount(number, minlength=V**3).numpy()
    if observed[probability == 0].any():
        return 0.0
    expected = probability * len(tokens_Bl)
    rare = expected < 5
    cells = [np.append(x[~rare], x[rare].sum()) for x in (observed, expected)]
    if cells[1][-1] == 0:
        cells = [x[:-1] for x in cells]
    return float(stats.chisquare(*cells).pvalue)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_stages_are_drawn_from_the_target(name: str, shared: bool) -> None:
    sampling = SETTINGS[name]
    view = view_of(range(30_000), shared=shared, **sampling)
    verdict = judge(view)
    p, q = joint(P, **sampling), joint(Q, **sampling)
    tv = np.abs(p - q).sum() / 2
    n, passed = len(verdict.passed_B), int(verdict.passed_B.sum())
    assert p_value(committed(view, verdict), p) > FALSE_ALARM
    assert stats.binomtest(passed, n, 1 - tv).pvalue > FALSE_ALARM  # as often as any lossless test can
    assert 1 - tv > np.prod(1 - np.abs(distribution(P, **sampling) - distribution(Q, **sampling)).sum(axis=1) / 2)
    assert passed > int(judge(view, "rejection").passed_B.sum())
    assert verdict.tries_B is not None
    tries = verdict.tries_B[~verdict.passed_B].double()
    assert not verdict.tries_B[verdict.passed_B].any() and tries.min() == 1
    deviation = math.sqrt(1 - tv) / tv  # the attempts are geometric with TV
    assert abs(tries.mean().item() - 1 / tv) < 5 * deviation / math.sqrt(len(tries)) + 1e-12


def same_attempt(monkeypatch: pytest.MonkeyPatch, view: StageView) -> torch.Tensor:
    """Every attempt reads the uniforms of the first."""
    monkeypatch.setattr(residual, "LIMIT", 64)
    real = view.noise.attempts
    monkeypatch.setattr(view.noise, "attempts", lambda k, first, n, images: real(k, 0, 4, images)[..., :1].repeat(1, 1, n))
    return committed(view, judge(view))


def unprocessed(monkeypatch: pytest.MonkeyPatch, view: StageView) -> torch.Tensor:
    """P and Q before top-k."""
    raw = StageView(STAGE, view.draft_tokens_Bl, view.draft_logits_BlV, view.target_logits_BlV, Sampling(), view.noise,
                    view.contribution, view.f_hat_before, view.codebook)  # fmt: skip
    return committed(view, judge(raw))


def by_token(monkeypatch: pytest.MonkeyPatch, view: StageView) -> torch.Tensor:
    """The residual of each token by itself."""
    return torch.where(judge(view).passed_B[:, None], view.draft_tokens_Bl, view.residual_sample())


@pytest.mark.parametrize("mistake", [same_attempt, unprocessed, by_token])
def test_a_mistake_is_seen_from_a_fifth_of_the_samples(mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling: dict[str, Any] = {"top_k": 3}
    p = joint(P, **sampling)
    assert p_value(mistake(monkeypatch, view_of(range(50_000, 60_000), **sampling)), p) < FALSE_ALARM
    monkeypatch.undo()
    right = view_of(range(50_000, 60_000), **sampling)
    assert p_value(committed(right, judge(right)), p) > FALSE_ALARM


@pytest.mark.long
def test_whole_images_of_the_loop() -> None:
    """Joint over three stages of the toy pair, γ = 3, in batches of two, with top-k."""
    pair, cell = toy.ToyPair(), loop("stage_rejection", 3, schedule=choose("cfg_schedule", "off"), top_k=2)
    tokens = in_bulk(pair, cell, toy.Noise([Unit(0, seed) for seed in range(60_000)]), 2)
    expected, observed = exact(pair, cell) * len(tokens), toy.images(tokens)
    assert not observed[expected == 0].any()
    rare = expected < 5
    cells = [np.append(x[~rare], x[rare].sum()) for x in (observed, expected)]
    assert stats.chisquare(*cells).pvalue > FALSE_ALARM


def test_blocks_of_attempts_and_batch_mates_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    close = 0.9 * P + 0.1 * Q  # hundreds of attempts
    seeds = range(400)
    everyone = torch.ones(len(seeds), dtype=torch.bool)
    whole = draw_stage(view_of(seeds, close, P), everyone)
    assert whole.tries_B.max() > 2 * residual.FIRST_BLOCK
    for first, largest in ((4, 12), (1024, 2**18)):
        monkeypatch.setattr(residual, "FIRST_BLOCK", first)
        monkeypatch.setattr(residual, "LARGEST_BLOCK", largest)
        other = draw_stage(view_of(seeds, close, P), everyone)
        assert torch.equal(other.tokens_Bl, whole.tokens_Bl) and torch.equal(other.tries_B, whole.tries_B)
    some = torch.arange(len(seeds)) % 3 == 0
    part = draw_stage(view_of(seeds, close, P), some)
    assert torch.equal(part.tokens_Bl[some], whole.tokens_Bl[some]) and not part.tries_B[~some].any()
    alone = draw_stage(view_of(range(7, 8), close, P), everyone[:1])
    assert torch.equal(alone.tokens_Bl[0], whole.tokens_Bl[7])


def test_attempts_are_the_residual_stream_by_attempt() -> None:
    """One function of (unit, stage, position, attempt), however it is cut; the decision has a position of its own."""
    units = [Unit(3, 5), Unit(1, 2)]
    book = NoiseBook(Pyramid((1, 2)), 4, units)
    whole = book.attempts(1, 0, 40, [0, 1])
    assert whole.shape == (2, 5, 40) and whole.dtype == torch.float64
    assert torch.equal(book.attempts(1, 12, 9, [1])[0], whole[1, :, 12:21])
    assert torch.equal(
        toy.Noise([Unit(0, 9)]).attempts(2, 8, 5, [0]), NoiseBook(toy.PYRAMID, V, [Unit(0, 9)]).attempts(2, 8, 5, [0])
    )
    assert whole.unique().numel() == whole.numel()


def large(p: torch.Tensor, q: torch.Tensor, **sampling: Any) -> StageView:
    book, s = NoiseBook(Pyramid((16,)), p.shape[-1], [Unit(0, 1)]), Sampling(**sampling, noise=Noise.independent)
    tokens = gumbel_argmax(process(q, s), book.gumbel(Stream.draft, 0))
    return StageView(0, tokens, q, p, s, book, lambda t: t, torch.zeros(1), torch.eye(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_stage_in_log_space(dtype: torch.dtype) -> None:
    """256 tokens of 4096 codes: ratios of e^±thousands, supports that differ, supports that do not meet, and equality."""
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2, 1, 256, 4096, generator=generator) * 4).to(dtype)
    for scale, sampling in ((1.0, {}), (1.0, {"top_k": 900, "top_p": 0.95}), (300.0, {})):
        view = large(p * scale, q * scale, **sampling)
        verdict = judge(view)
        assert verdict.passed_B.tolist() == [False] and verdict.tries_B is not None and verdict.tries_B.tolist() == [1]
        assert view.p.gather(-1, verdict.corrected_Bl[..., None]).min() > 0
    assert judge(large(p, p)).passed_B.all()
    apart = torch.full_like(p, -1e4)
    apart[..., :2048] = 0
    assert judge(large(p + apart, p + apart.flip(-1))).tries_B.tolist() == [1]  # type: ignore[union-attr]


def test_attempts_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where P is Q no attempt is ever kept: the last one allowed is taken, and memory stays that of a block."""
    monkeypatch.setattr(residual, "LIMIT", 500)
    asked = list[int]()
    view = view_of(range(3), P, P)
    real = view.noise.attempts
    monkeypatch.setattr(view.noise, "attempts", lambda k, first, n, images: (asked.append(n), real(k, first, n, images))[1])
    monkeypatch.setattr(residual, "LARGEST_BLOCK", 300)
    out = draw_stage(view, torch.ones(3, dtype=torch.bool))
    assert max(asked) <= 100 and (out.tries_B >= 500).all() and (out.tries_B < 700).all()
    monkeypatch.setattr(residual, "LIMIT", sum(asked[:3]))
    assert draw_stage(view, torch.ones(3, dtype=torch.bool)).tries_B.tolist() == [sum(asked[:3])] * 3


def test_the_device_is_waited_for_once_a_block() -> None:
    class Waits(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            self.count += name in ("tolist", "item", "__bool__", "nonzero", "__int__", "__float__", "cpu")
            return func(*args, **(kwargs or {}))

    view, blocks = view_of(range(200), 0.9 * P + 0.1 * Q, P), list[int]()
    real = view.noise.attempts
    view.noise.attempts = lambda *args: (blocks.append(1), real(*args))[1]  # type: ignore[method-assign]
    with Waits() as waits:
        draw_stage(view, torch.ones(200, dtype=torch.bool))
    assert len(blocks) > 2 and waits.count <= len(blocks) + 1


def test_attempts_are_recorded_by_stage() -> None:
    pair: Any = toy.ToyPair()
    out = decode(pair, loop("stage_rejection", 2), [Unit(0, seed) for seed in range(6)])
    for stage in out.stages:
        assert stage.passed is not None and stage.tries is not None
        assert [n == 0 for n in stage.tries] == list(stage.passed)
    assert all(s.tries is None for s in decode(pair, loop("rejection", 2), [Unit(0, 0)]).stages)
