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
    """f̂ before is (1, 1, 1, 1), a stage adds its tokens: (2, 3, 4, 2) against (4, 4, 4, 4)."""
    view = stage(P, [1, 2, 3, 1], Q, target=[0, 0, 0, 99])  # the target samples code 3 everywhere
    distance = 3 / 8  # ‖(-2, -1, 0, -2)‖ / ‖(4, 4, 4, 4)‖
    for tau, passes in ((distance + 1e-9, True), (distance - 1e-9, False)):
        verdict = judge("feature_distance", view, tau=tau)
        assert (verdict.passed_B.tolist(), accepted(verdict)) == ([passes], [int(passes)] * 4)
        assert verdict.corrected_Bl.tolist() == [[3, 3, 3, 3]]


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
