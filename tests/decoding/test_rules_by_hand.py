"""Each acceptance rule against numbers worked out by hand: one stage of four tokens over four codes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sdvar_exp.cell import Sampling, Unit
from sdvar_exp.decoding.acceptance.neighbourhood import nearest_codes
from sdvar_exp.decoding.evidence import StageView, Verdict
from sdvar_exp.decoding.noise import NoiseBook, Stream
from sdvar_exp.errors import UserError
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose

LN2 = math.log(2)
HALVES = (0.5, 0.25, 0.125, 0.125)


class Given(NoiseBook):
    """Uniforms of the four tokens, and Gumbel variables of each stream, the same for every token."""

    def __init__(self, u: list[float], residual: list[float], target: list[float]) -> None:
        super().__init__(Pyramid((1, 2)), 4, [Unit(0, 0)])
        self.u = torch.tensor([u], dtype=torch.float64)
        self.g = {Stream.residual: residual, Stream.target: target}

    def uniform(self, stage: int) -> torch.Tensor:
        return self.u

    def gumbel(self, stream: Stream, stage: int) -> torch.Tensor:
        return torch.tensor(self.g[stream]).expand(1, 4, 4)


def stage(
    p: Any,
    draft: list[int],
    q: Any = HALVES,
    u: list[float] | None = None,
    residual: list[float] | None = None,
    target: list[float] | None = None,
    **sampling: Any,
) -> StageView:
    """Stage 1; p and q of all tokens alike, or one row for each."""

    def logits(x: Any) -> torch.Tensor:
        return torch.tensor(x, dtype=torch.float64).log().expand(1, 4, 4)

    noise = Given(u or [0.5] * 4, residual or [0.0] * 4, target or [0.0] * 4)
    codebook = torch.tensor([[0.0], [1.0], [2.5], [4.5]])
    return StageView(
        1,
        torch.tensor([draft]),
        logits(q),
        logits(p),
        Sampling(**sampling),
        noise,
        lambda t: t.double(),
        torch.ones(1, 4, dtype=torch.float64),
        codebook,
    )


def judge(name: str, view: StageView, **params: Any) -> Verdict:
    choice = choose("acceptance", name, **params)
    return choice.entry.function(choice.params, view)


def accepted(verdict: Verdict) -> list[int]:
    return verdict.accepted_Bl[0].int().tolist()


EACH = [0, 1, 2, 3]  # one token of each code


def test_bounds() -> None:
    """The view is of stage 1."""
    for until, passes in ((-1, True), (0, False), (1, False), (2, True)):
        verdict = judge("always", stage(HALVES, EACH, target=[0, 9, 0, 0]), until=until)
        assert (verdict.passed_B.tolist(), accepted(verdict)) == ([passes], [int(passes)] * 4)
        assert verdict.corrected_Bl.tolist() == [[1] * 4]
    verdict = judge("never", stage(HALVES, EACH))
    assert (verdict.passed_B.tolist(), accepted(verdict)) == ([False], [0] * 4)


@pytest.mark.parametrize(
    ("p", "params", "sampling", "expected"),
    [
        ((0.5, 0.25, 0.15, 0.1), {"k": 1}, {}, [1, 0, 0, 0]),
        ((0.5, 0.25, 0.15, 0.1), {"k": 2}, {}, [1, 1, 0, 0]),
        ((0.5, 0.25, 0.15, 0.1), {"k": 4}, {}, [1, 1, 1, 1]),
        ((0.5, 0.25, 0.15, 0.1), {"k": 0}, {}, [0, 0, 0, 0]),
        ((0.5, 0.25, 0.15, 0.1), {"k": 0, "theta": 0.12}, {}, [1, 1, 1, 0]),  # or p > θ
        ((0.5, 0.25, 0.15, 0.1), {"k": 1, "theta": 0.2}, {}, [1, 1, 0, 0]),
        ((0.5, 0.25, 0.125, 0.125), {"k": 0, "theta": 0.25}, {}, [1, 0, 0, 0]),  # what equals θ is not above it
        ((0.5, 0.25, 0.125, 0.125), {"k": 0, "theta": 0.25 - 1e-9}, {}, [1, 1, 0, 0]),
        ((0.1, 0.15, 0.25, 0.5), {"k": 2}, {}, [0, 0, 1, 1]),
        ((0.4, 0.2, 0.2, 0.2), {"k": 2}, {}, [1, 1, 1, 1]),  # all that tie with the k-th
        ((0.5, 0.25, 0.15, 0.1), {"k": 3}, {"top_k": 2}, [1, 1, 0, 0]),  # a removed code is in no list
        ((0.5, 0.25, 0.15, 0.1), {"k": 0, "theta": 0.3}, {"top_k": 2}, [1, 1, 0, 0]),  # processed: ⅔ and ⅓
        ((0.5, 0.25, 0.15, 0.1), {"k": 0, "theta": 0.3}, {}, [1, 0, 0, 0]),
    ],
)
def test_top_k(p: Any, params: dict[str, Any], sampling: dict[str, Any], expected: list[int]) -> None:
    assert accepted(judge("top_k", stage(p, EACH, **sampling), **params)) == expected


@pytest.mark.parametrize(("tau", "passes"), [(0.5, True), (0.51, False), (0.0, True)])
def test_top_k_passes_a_share(tau: float, passes: bool) -> None:
    view = stage((0.5, 0.25, 0.15, 0.1), EACH, target=[0, 0, 9, 0])
    verdict = judge("top_k", view, k=2, tau=tau)
    assert verdict.passed_B.tolist() == [passes]
    assert verdict.corrected_Bl.tolist() == [[2, 2, 2, 2]]  # the target's sample


# half of the tokens agree; for the others Σ p ln(p/q) = ½ ln 4 - ¼ ln 2 - ⅛ ln 2 = ⅝ ln 2 (the other way round: ½ ln 2)
P_ROWS, Q_ROWS = [HALVES] * 4, [(0.125, 0.5, 0.25, 0.125)] * 2 + [HALVES] * 2


@pytest.mark.parametrize(
    ("sampling", "value"),
    [
        ({}, 5 / 16 * LN2),
        ({"top_k": 1}, 5 / 16 * LN2),
        ({"top_p": 0.6}, 5 / 16 * LN2),  # before both
        ({"temperature": 0.5}, 54 / 44 * LN2),  # p² = (16, 4, 1, 1)/22, q² = (1, 16, 4, 1)/22: (64 - 8 - 2)/22 · ln 2
    ],
)
def test_kl(sampling: dict[str, Any], value: float) -> None:
    view = stage(P_ROWS, EACH, Q_ROWS, target=[0, 9, 0, 0], **sampling)
    assert view.kl_Bl.mean().item() == pytest.approx(value)
    for tau, passes in ((value + 1e-9, True), (value - 1e-9, False)):
        verdict = judge("kl", view, tau=tau)
        assert (verdict.passed_B.tolist(), accepted(verdict)) == ([passes], [int(passes)] * 4)


# Σ |p - q| / 2 = (⅜ + ¼ + ⅛) / 2 = ⅜ for half of the tokens
@pytest.mark.parametrize(
    ("sampling", "value"),
    [
        ({}, 3 / 16),
        ({"top_k": 1}, 0.5),  # processed: all mass on code 0, all on code 1
        ({"top_k": 2}, 1 / 3),  # (⅔, ⅓, 0, 0) and (0, ⅔, ⅓, 0): ⅔
        ({"temperature": 0.5}, 15 / 44),  # (15 + 12 + 3)/22 / 2
    ],
)
def test_tv(sampling: dict[str, Any], value: float) -> None:
    view = stage(P_ROWS, EACH, Q_ROWS, **sampling)
    for tau, passes in ((value + 1e-9, True), (value - 1e-9, False)):
        assert judge("tv", view, tau=tau).passed_B.tolist() == [passes]


@pytest.mark.parametrize("name", ["kl", "tv"])
@pytest.mark.parametrize(
    ("by_stage", "passes"),
    [
        ((9.0, 0.0), False),
        ((0.0, 9.0), True),
        ((9.0,), True),
        ((0.0,), False),
        ((9.0, 0.0, 9.0), False),
        ((0.0, 9.0, 0.0), True),
    ],
)
def test_a_bound_by_stage(name: str, by_stage: tuple[float, ...], passes: bool) -> None:
    """This is stage 1; the last bound holds for later stages; `tau` is then not read."""
    assert judge(name, stage(P_ROWS, EACH, Q_ROWS), tau=9.0 - 9.0 * passes, by_stage=by_stage).passed_B.tolist() == [passes]


# H(1/2, 1/4, 1/8, 1/8) = 7/4 ln 2, exp(-H) = 0.2973
@pytest.mark.parametrize(
    ("params", "sampling", "expected"),
    [
        ({"epsilon": 1.0, "alpha": 1.0}, {}, [1, 0, 0, 0]),  # 0.2973
        ({"epsilon": 0.2, "alpha": 1.0}, {}, [1, 1, 0, 0]),  # ε
        ({"epsilon": 1.0, "alpha": 0.5}, {}, [1, 1, 0, 0]),  # 0.1486
        ({"epsilon": 1.0, "alpha": 0.4}, {}, [1, 1, 1, 1]),  # 0.1189
        ({"epsilon": 0.13, "alpha": 9.0}, {}, [1, 1, 0, 0]),
        ({"epsilon": 0.1, "alpha": 0.3}, {}, [1, 1, 1, 1]),
        ({"epsilon": 0.1, "alpha": 0.3}, {"top_k": 2}, [1, 1, 0, 0]),  # processed: ⅔, ⅓, 0, 0
        ({"epsilon": 1.0, "alpha": 0.6}, {"top_k": 2}, [1, 1, 0, 0]),  # exp(-H) = 0.5291, 0.6 of it 0.3175 < ⅓
        ({"epsilon": 1.0, "alpha": 0.7}, {"top_k": 2}, [1, 0, 0, 0]),  # 0.3704
    ],
)
def test_typical(params: dict[str, Any], sampling: dict[str, Any], expected: list[int]) -> None:
    assert accepted(judge("typical", stage(HALVES, EACH, **sampling), **params)) == expected


@pytest.mark.parametrize(("tau", "passes"), [(0.5, True), (0.51, False)])
def test_typical_passes_a_share(tau: float, passes: bool) -> None:
    verdict = judge("typical", stage(HALVES, EACH, target=[0, 0, 0, 9]), epsilon=0.2, alpha=1.0, tau=tau)
    assert (verdict.passed_B.tolist(), verdict.corrected_Bl.tolist()) == ([passes], [[3, 3, 3, 3]])


# --- rejection and neighbourhood -----------------------------------------------------------------------------------------

P, Q = (0.3, 0.1, 0.2, 0.4), (0.1, 0.5, 0.2, 0.2)  # p/q = 3, 0.2, 1, 2; max(0, p - q) = (0.2, 0, 0, 0.2)


@pytest.mark.parametrize(
    ("u", "expected"),
    [
        ([0.999, 0.19, 0.999, 0.999], [1, 1, 1, 1]),
        ([0.999, 0.21, 0.999, 0.999], [1, 0, 1, 1]),
        ([0.001, 0.001, 0.001, 0.001], [1, 1, 1, 1]),
    ],
)
def test_rejection(u: list[float], expected: list[int]) -> None:
    verdict = judge("rejection", stage(P, EACH, Q, u=u))
    assert (accepted(verdict), verdict.passed_B.tolist()) == (expected, [all(expected)])


def test_a_uniform_that_equals_the_ratio_rejects() -> None:
    """U < p/q with p = ¼ and q = ½, which are exact."""
    for u, expected in ((0.5, 0), (0.5 - 2**-33, 1)):
        assert accepted(judge("rejection", stage(HALVES, [1] * 4, (0.25, 0.5, 0.125, 0.125), u=[u] * 4))) == [expected] * 4


@pytest.mark.parametrize("rule", [("rejection", {}), ("neighbourhood", {"k": 1, "delta": 0.05})])
@pytest.mark.parametrize(
    ("residual", "redrawn"),
    [
        ([0, 0, 0, 0.1], 3),
        ([0.1, 0, 0, 0], 0),  # two codes with equal rests
        ([0, 50, 50, 0.1], 3),
        ([0.1, 50, 50, 0], 0),  # codes without a rest are never drawn, whatever the noise
    ],
)
def test_rejected_positions_are_redrawn_from_the_residual(
    rule: tuple[str, dict[str, Any]], residual: list[float], redrawn: int
) -> None:
    """And accepted ones keep the draft's token; the target's own sample (code 2) is not looked at."""
    view = stage(P, [1, 1, 2, 3], Q, u=[0.9, 0.1, 0.9, 0.9], residual=residual, target=[0, 0, 99, 0])
    verdict = judge(rule[0], view, **rule[1])
    assert (accepted(verdict), verdict.corrected_Bl.tolist()) == ([0, 1, 1, 1], [[redrawn, 1, 2, 3]])


def test_the_residual_is_of_the_processed_distributions() -> None:
    """top_k = 2: p = (3/7, 0, 0, 4/7), q = (1/3, 2/3, 0, 0)."""
    view = stage((0.3, 0.1, 0.2, 0.4), [1] * 4, (0.25, 0.5, 0.2, 0.05), residual=[0, 0, 50, 0], top_k=2)
    torch.testing.assert_close(view.q[0, 0], torch.tensor([1 / 3, 2 / 3, 0, 0], dtype=torch.float64))
    verdict = judge("rejection", view)
    assert accepted(verdict) == [0] * 4  # p of code 1 is 0 after top-k
    assert verdict.corrected_Bl.tolist() == [[3] * 4]  # rests: 3/7 - 1/3 = 0.095 of code 0, 4/7 of code 3, none of code 2


# from x = 1 (code vector 1.0) the others lie at 1.0 (code 0), 1.5 (code 2), 3.5 (code 3); p = 0.3, 0.2, 0.4; q(x) = 0.5
@pytest.mark.parametrize(
    ("k", "delta", "chance"),
    [
        (0, 1.0, 0.2),
        (1, 0.0, 0.2),
        (1, 0.29, 0.2),  # p of the nearest is more than δ
        (1, 0.31, 0.8),  # A = {0}: (0.1 + 0.3) / 0.5
        (2, 0.31, 0.8),
        (2, 0.49, 0.8),  # {0, 2} would lend 0.5
        (2, 0.25, 0.2),  # a run from the nearest on: never {2} alone, though 0.2 ≤ δ
        (2, 0.51, 1.2),
        (3, 0.51, 1.2),
        (3, 0.91, 2.0),
    ],
)
def test_neighbourhood(k: int, delta: float, chance: float) -> None:
    for u in (0.19, 0.21, 0.79, 0.81, 0.999):
        verdict = judge("neighbourhood", stage(P, [1] * 4, Q, u=[u] * 4), k=k, delta=delta)
        assert accepted(verdict) == [int(u < chance)] * 4


def test_nearest_codes() -> None:
    """Nearest first, the code itself left out, the lower index first where two are as near, at most all others."""
    line = torch.tensor([[0.0], [1.0], [2.5], [4.5], [2.0]])
    assert nearest_codes(line, torch.tensor([[1, 3], [0, 2]]), 2).tolist() == [[[0, 4], [2, 4]], [[1, 4], [4, 1]]]
    assert nearest_codes(line, torch.tensor([[2]]), 99).tolist() == [[[4, 1, 3, 0]]]
    assert nearest_codes(line, torch.tensor([[2]]), 0).shape == (1, 1, 0)


# --- feature_distance ----------------------------------------------------------------------------------------------------


def test_feature_distance() -> None:
    """f̂ before is (1, 1, 1, 1), a stage adds its tokens: (2, 3, 4, 2) against (4, 4, 4, 4); the scale does not matter."""
    view = stage(P, [1, 2, 3, 1], Q, target=[0, 0, 0, 99])  # the target samples code 3 everywhere
    distance = 3 / 8  # ‖(-2, -1, 0, -2)‖ / ‖(4, 4, 4, 4)‖
    for scale in (1.0, 1e-6):
        view.f_hat_before, view.contribution = torch.full((1, 4), scale, dtype=torch.float64), lambda t, s=scale: s * t.double()
        for tau, passes in ((distance + 1e-9, True), (distance - 1e-9, False)):
            verdict = judge("feature_distance", view, tau=tau)
            assert (verdict.passed_B.tolist(), accepted(verdict)) == ([passes], [int(passes)] * 4)
            assert verdict.corrected_Bl.tolist() == [[3, 3, 3, 3]]


# --- how far a verdict lies from another one ------------------------------------------------------------------------------


def row(best: int, gap: float) -> list[float]:
    """A token's weights: one code `gap` logits above the others, which are equal."""
    return [1.0 if code == best else math.exp(-gap) for code in range(4)]


def rows(best: list[int], gaps: list[float]) -> list[list[float]]:
    return [row(code, gap) for code, gap in zip(best, gaps, strict=True)]


def distance(name: str, view: StageView, **params: Any) -> float:
    verdict = judge(name, view, **params)
    assert verdict.margin_B is not None
    return verdict.margin_B().item()


FAR = [9.0] * 4


@pytest.mark.parametrize(
    ("sampled", "target", "draft", "tau", "expected"),
    [
        # three of four match: so many verdicts, the surest of them last, must turn to fall below the share asked for
        ([0, 1, 2, 0], [0.3, 0.1, 0.2, 0.05], FAR, 0.75, 0.1),
        ([0, 1, 2, 0], [0.3, 0.1, 0.2, 0.05], FAR, 0.5, 0.2),
        ([0, 1, 2, 0], [0.3, 0.1, 0.2, 0.05], FAR, 0.25, 0.3),
        ([0, 1, 2, 0], [0.3, 0.1, 0.2, 0.05], FAR, 0.0, 9.0),  # whatever turns, it passes: the draft's tokens alone
        ([0, 1, 2, 3], [0.3, 0.1, 0.2, 0.4], FAR, 0.0, 9.0),
        # a match turns with the draft's token as with the target's, and a passed stage commits the draft's tokens
        ([0, 1, 2, 0], FAR, [8.0, 7.0, 8.0, 6.0], 0.5, 6.0),
        # one of four: so many must turn to reach the share
        ([0, 0, 0, 0], FAR, [0.05, 0.3, 0.1, 0.2], 0.5, 0.1),
        ([0, 0, 0, 0], FAR, [0.05, 0.3, 0.1, 0.2], 0.75, 0.2),
        ([0, 0, 0, 0], FAR, [0.05, 0.3, 0.1, 0.2], 1.0, 0.3),
        # and a failed stage commits the target's tokens
        ([0, 0, 0, 0], [8.0, 7.0, 8.0, 8.0], FAR, 0.5, 7.0),
    ],
)
@pytest.mark.parametrize("mode", ["coupled", "argmax"])
def test_distance_of_a_share(
    sampled: list[int], target: list[float], draft: list[float], tau: float, expected: float, mode: str
) -> None:
    """Without noise the target samples its most probable code; at temperature ½ every gap is twice as wide."""
    for temperature in (1.0, 0.5):
        view = stage(rows(sampled, target), EACH, rows(EACH, draft), temperature=temperature)
        assert distance("match_rate", view, tau=tau, mode=mode) == pytest.approx(expected / temperature)
    if tau == 1:
        assert distance("exact", view) == pytest.approx(expected / temperature)


def test_distance_of_a_repaired_stage_and_of_what_is_passed_unseen() -> None:
    """A repaired stage commits a token for each match, so that each match counts, and the target's token where there is none."""
    view = stage(rows([0, 1, 2, 0], [0.4, 0.3, 0.2, 0.1]), EACH, rows(EACH, FAR))
    assert distance("match_rate", view, tau=0.25, repair=True) == pytest.approx(0.1)
    assert distance("match_rate", view, tau=0.25) == pytest.approx(0.4)
    noisy = stage(rows(EACH, [3.0, 4.0, 5.0, 6.0]), EACH, rows(EACH, [7.0, 9.0, 8.0, 9.0]), target=[0, 0, 0.5, 0])
    assert distance("always", noisy) == distance("always", noisy, until=2) == pytest.approx(6.5)
    assert distance("never", noisy) == distance("always", noisy, until=1) == pytest.approx(2.5)


def test_distance_of_a_bound() -> None:
    """Of the value from the bound, of the draft's tokens where it passes and of the target's where it fails."""
    value = 5 / 16 * LN2  # of the KL of P_ROWS and Q_ROWS, see above
    view = stage(P_ROWS, EACH, Q_ROWS, target=[0, 9, 0, 0])
    for tau in (value + 0.01, value - 0.02):
        assert distance("kl", view, tau=tau) == pytest.approx(abs(tau - value))
    p, q = rows(EACH, [2.0, 2.1, 2.2, 2.3]), rows(EACH, [1.7, 1.5, 1.6, 1.8])
    for name in ("kl", "tv"):
        assert distance(name, stage(p, EACH, q), tau=9.0) == pytest.approx(1.5)
    assert distance("feature_distance", stage(p, EACH, q), tau=9.0) == pytest.approx(1.5)
    assert distance("feature_distance", stage(q, EACH, p), tau=9.0) == pytest.approx(1.5)
    apart = stage(rows([1, 2, 3, 0], [40.2, 40.0, 40.1, 40.3]), EACH, rows(EACH, [40.5] * 4))
    assert distance("kl", apart, tau=0.0) == pytest.approx(40.0, abs=0.01) and distance("tv", apart, tau=0.5) == pytest.approx(
        0.5
    )


def test_distance_of_a_rejection() -> None:
    """|ln U·q - ln p| of every token; of a rejected one also what draws another code from the residual, to first order.

    p - q = .2 of codes 0 and 3 and none of the others: code 0 is drawn with e^.1 in its favour. Code 3 wins where its rest has
    grown by as much while that of code 0 has shrunk, and the logarithms of all p and q move by one ε: .2 + .6 ε = .2 e^.1 (1 - 2 ε).
    """
    u = [0.5, 0.1, 0.5, 0.5]
    view = stage(P, EACH, Q, u=u, target=[0, 0, 99, 0])
    assert distance("rejection", view) == pytest.approx(math.log(2))  # of U < 1 at code 2: all pass
    ratios = [math.log(p / q / x) for p, q, x in zip(P, Q, u, strict=True)]
    assert min(ratios) == pytest.approx(math.log(2))
    bar = 0.2 * math.exp(0.1)
    rejected = stage(P, [1, 0, 0, 0], Q, u=[0.9, 0.5, 0.5, 0.5], residual=[0.1, 0, 0, 0], target=[0, 99, 0, 0])
    assert distance("rejection", rejected) == pytest.approx((bar - 0.2) / (0.6 + 2 * bar))
    # a code that neither has is never drawn: only code 1, p - q = -⅔, is left beside code 0
    lone = stage((1, 0, 0, 0), [1] * 4, (1, 2, 0, 0), target=[0, 99, 0, 0])
    assert distance("rejection", lone) == pytest.approx((2 / 3 + 2 / 3) / (2 / 3 + 2 / 3 * 2))
    # code 2, with a rest of 0, is nearer where noise favours it: 0 + .4 ε = .2 e^(.1 - 4) (1 - 2 ε)
    bar = 0.2 * math.exp(0.1 - 4)
    noisy = stage(P, [1, 0, 0, 0], Q, u=[0.9, 0.5, 0.5, 0.5], residual=[0.1, 0, 4, 0], target=[0, 99, 0, 0])
    assert distance("rejection", noisy) == pytest.approx(bar / (0.4 + 2 * bar))


def test_distance_of_a_rank() -> None:
    """From the k-th of the other codes, and of a probability from θ; where both accept, both must turn."""
    p = (0.5, 0.25, 0.15, 0.1)
    view = stage(p, EACH)
    assert view.rank_edge_Bl(2)[0].tolist() == pytest.approx([math.log(x) for x in (0.5 / 0.15, 0.25 / 0.15, 0.25 / 0.15, 2.5)])
    assert view.rank_edge_Bl(1)[0].tolist() == pytest.approx([math.log(x) for x in (2, 2, 0.5 / 0.15, 5)])
    assert all(view.rank_edge_Bl(k)[0].eq(math.inf).all() for k in (0, 4, 5))
    far = [row(0, 9.0)] * 4
    for draft, k, theta, expected in (
        ([0] * 4, 1, 0.45, 2.0),  # listed and likely: ln 2 and ln .5/.45
        ([0] * 4, 1, 0.1, 5.0),
        ([0] * 4, 1, 0.9, 2.0),  # listed alone
        ([1] * 4, 1, 0.2, 1.25),  # likely alone
        ([1] * 4, 1, 0.3, 1.2),  # neither: the nearer of ln 2 and ln .3/.25
        ([2] * 4, 2, 0.4, 0.25 / 0.15),
    ):
        found = distance("top_k", stage(p, draft, far, target=[9.0, 0, 0, 0]), k=k, theta=theta, tau=1.0)
        assert found == pytest.approx(math.log(expected), rel=1e-4), (draft, k, theta)


def test_distance_of_what_neighbours_lend() -> None:
    """Of U·q = .25 from .1 + .3 or from .1 alone; 0 where the end of the run decides, .3 being within a near-tie of δ."""
    near = 0.3 * (1 - 1e-10)  # but for the slack of δ
    for delta, expected in ((0.35, 1.6), (0.3, 1.6), (near, 1.0), (near - 2e-11, 2.5), (0.05, 2.5)):
        view = stage(P, [1] * 4, Q, residual=[5.0, 0, 0, 0], target=[0, 0, 0, 99.0])
        bar = 0.2 * math.exp(5)  # of a rejected token code 3 is the next from the residual, see above
        drawn = (bar - 0.2) / (0.6 + 2 * bar) if delta < near else math.inf
        assert distance("neighbourhood", view, k=1, delta=delta) == pytest.approx(min(math.log(expected), drawn))


def test_distance_of_a_whole_stage() -> None:
    """|ln U - Σ ln p/q| for each token; of a failed stage also that of the attempts at the residual, up to the one that is kept."""
    p, q = [(0.5, 0.3, 0.1, 0.1)] * 4, [(0.25, 0.25, 0.25, 0.25)] * 4  # p cumulated: .5, .8, .9, 1
    passed = stage(p, [0] * 4, q, u=[0.5, 0, 0, 0], target=[9.0, 0, 0, 0])
    assert distance("stage_rejection", passed) == pytest.approx((4 * LN2 + LN2) / 4)
    for u, decision, tries, tokens, expected in (
        ([0.65, 0.6, 0.5001], [0.9, 0.1, 0.1], 2, 1, 0.1),  # from .5, below code 1's step, at the attempt that is kept
        ([0.79, 0.65, 0.65], [0.9, 0.1, 0.1], 2, 1, 0.01),  # an attempt before it might have been kept with other tokens
        ([0.45, 0.6, 0.6], [0.1, 0.1, 0.1], 1, 0, 0.05),  # below code 0 there is nothing
        ([0.65, 0.6, 0.6], [0.5, 0.1, 0.1], 1, 1, (4 * math.log(0.3 / 0.25) + math.log(0.5)) / 4),  # 1 - U from Q/P
    ):
        view = stage(p, [2, 2, 2, 0], q, u=[0.5, 0, 0, 0], target=[9.0, 0, 0, 0])
        made = torch.tensor([[u + [0.6] * 29] * 4 + [decision + [0.1] * 29]], dtype=torch.float64)
        view.noise.attempts = lambda k, first, n, images, made=made: made  # type: ignore[method-assign,misc]
        verdict = judge("stage_rejection", view)
        assert verdict.tries_B is not None and verdict.tries_B.tolist() == [tries]
        assert verdict.passed_B.tolist() == [False] and verdict.corrected_Bl.tolist() == [[tokens] * 4]
        assert distance("stage_rejection", view) == pytest.approx(abs(expected))


# --- ranges --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("top_k", {"k": -1}, "acceptance.k must be ≥ 0, got -1"),
        ("top_k", {"theta": 1.1}, r"acceptance.theta must lie in \[0, 1\], got 1.1"),
        ("top_k", {"tau": -0.1}, r"acceptance.tau must lie in \[0, 1\], got -0.1"),
        ("kl", {"tau": -1.0}, "acceptance.tau must be ≥ 0, got -1.0"),
        ("tv", {"by_stage": (0.1, -0.2)}, r"acceptance.by_stage must be ≥ 0, got \[0.1, -0.2\]"),
        ("kl", {"tau": float("nan")}, "acceptance.tau must be ≥ 0, got nan"),
        ("typical", {"epsilon": 2.0}, r"acceptance.epsilon must lie in \[0, 1\], got 2.0"),
        ("typical", {"alpha": -1.0}, "acceptance.alpha must be ≥ 0, got -1.0"),
        ("typical", {"tau": 2.0}, r"acceptance.tau must lie in \[0, 1\], got 2.0"),
        ("neighbourhood", {"k": -1}, "acceptance.k must be ≥ 0, got -1"),
        ("neighbourhood", {"delta": 1.5}, r"acceptance.delta must lie in \[0, 1\], got 1.5"),
        ("feature_distance", {"tau": -0.1}, "acceptance.tau must be ≥ 0, got -0.1"),
    ],
)
def test_ranges(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose("acceptance", name, **params)
