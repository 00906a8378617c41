"""γ controllers: functions (parameters, GammaContext) → (γ, reason). `cost_model` has a file of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sdvar_exp.decoding.gamma import GammaContext
from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell


@dataclass(frozen=True)
class Fixed:
    """value: proposed stages per round, γ ≥ 1."""

    value: int = 2

    def __post_init__(self) -> None:
        require(self.value >= 1, f"gamma.value must be ≥ 1, got {self.value}")


@register("gamma", "fixed", Fixed)
def fixed(g: Fixed, context: GammaContext) -> tuple[int, str]:
    """γ = value in every round, cut to the stages that are left."""
    return g.value, "fixed"


@dataclass(frozen=True)
class Table:
    """values: γ for a round that starts at stage 0, 1, …; the last value holds for all later stages. 0: target alone."""

    values: tuple[int, ...] = (4, 4, 3, 3, 2, 2, 1, 1, 1, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        require(
            len(self.values) > 0 and all(isinstance(v, int) and v >= 0 for v in self.values),
            f"gamma.values must be integers ≥ 0, got {list(self.values)}",
        )


@register("gamma", "table", Table, zero=lambda g: 0 in g.values)
def table(g: Table, context: GammaContext) -> tuple[int, str]:
    """γ = values[n], n the first stage of the round; 0 is the target alone for one stage."""
    return g.values[min(context.stage, len(g.values) - 1)], f"table[{context.stage}]"


class Decrease(Enum):
    """After a failed round: `minus_one` γ-1, `halve` ⌊γ/2⌋."""

    minus_one = "minus_one"
    halve = "halve"


@dataclass(frozen=True)
class Aimd:
    """start: first γ; smallest, largest: its bounds; decrease: what a failed stage does."""

    start: int = 2
    smallest: int = 1
    largest: int = 10
    decrease: Decrease = Decrease.minus_one

    def __post_init__(self) -> None:
        require(
            1 <= self.smallest <= self.start <= self.largest,
            f"gamma needs 1 ≤ smallest ≤ start ≤ largest, got {self.smallest}, {self.start}, {self.largest}",
        )


@register("gamma", "aimd", Aimd)
def aimd(g: Aimd, context: GammaContext) -> tuple[int, str]:
    """γ + 1 after a round in which every stage passed, else γ - 1 or ⌊γ/2⌋, within bounds (Chiu & Jain, 1989)."""
    gamma, reason = g.start, "start"
    for past in context.history:
        if past.passed == past.proposed:
            gamma, reason = min(gamma + 1, g.largest), "all passed"
        else:
            less = gamma - 1 if g.decrease is Decrease.minus_one else gamma // 2
            gamma, reason = max(less, g.smallest), "a stage failed"
    return gamma, reason


@dataclass(frozen=True)
class AcceptanceEma:
    """prior: pass rate of a stage before anything is seen; decay: weight of the past; threshold: smallest chance that all
    proposed stages pass; largest: bound of γ."""

    prior: float = 0.7
    decay: float = 0.7
    threshold: float = 0.5
    largest: int = 10

    def __post_init__(self) -> None:
        for name in ("prior", "decay", "threshold"):
            require(0 <= getattr(self, name) <= 1, f"gamma.{name} must lie in [0, 1], got {getattr(self, name)}")
        require(self.largest >= 1, f"gamma.largest must be ≥ 1, got {self.largest}")


@register("gamma", "acceptance_ema", AcceptanceEma)
def acceptance_ema(g: AcceptanceEma, context: GammaContext) -> tuple[int, str]:
    """Largest γ with a^γ ≥ threshold (γ ≥ 1); a ← decay·a + (1 - decay)·[passed] for each judged stage, from a prior."""
    rate = g.prior
    for past in context.history:
        for passed in past.stage_passed:
            rate = g.decay * rate + (1 - g.decay) * passed
    gamma = 1
    while gamma < g.largest and rate ** (gamma + 1) >= g.threshold:
        gamma += 1
    return gamma, f"pass rate {rate:.3f}"


@dataclass(frozen=True)
class TokenBudget:
    """tokens: largest number of rows of one verify pass per image; at least one stage is proposed."""

    tokens: int = 128

    def __post_init__(self) -> None:
        require(self.tokens >= 1, f"gamma.tokens must be ≥ 1, got {self.tokens}")


@register("gamma", "token_budget", TokenBudget)
def token_budget(g: TokenBudget, context: GammaContext) -> tuple[int, str]:
    """Largest γ with L_n + … + L_{n+γ-1} ≤ tokens (γ ≥ 1): late stages are most of all tokens."""
    gamma = 1
    while gamma < context.room and context.pyramid.count(context.stage, context.stage + gamma + 1) <= g.tokens:
        gamma += 1
    return gamma, f"{context.pyramid.count(context.stage, context.stage + gamma)} tokens"


@dataclass(frozen=True)
class Margin:
    """flips: largest expected number of flipped tokens of a stage behind which more is proposed; chance, scale: a token flips
    with probability chance·exp(-margin/scale) (defaults: fitted on 12 images of the embedded pair); largest: bound of γ."""

    flips: float = 1.0
    chance: float = 0.7
    scale: float = 1.35
    largest: int = 10

    def __post_init__(self) -> None:
        require(0 <= self.flips < math.inf, f"gamma.flips must be ≥ 0 and finite, got {self.flips}")
        require(0 <= self.chance <= 1, f"gamma.chance must lie in [0, 1], got {self.chance}")
        require(0 < self.scale < math.inf, f"gamma.scale must be > 0 and finite, got {self.scale}")
        require(self.largest >= 1, f"gamma.largest must be ≥ 1, got {self.largest}")


def reads_every_stage(cell: Cell, stages: int) -> None:
    skips = getattr(cell.strategy.params, "skip_last", False)
    require(not skips, "gamma=margin reads the tokens of every proposed stage: use strategy.skip_last=false")


@register("gamma", "margin", Margin, reads_margins=True, check=reads_every_stage)
def margin(g: Margin, context: GammaContext) -> tuple[int, str]:
    """γ up to the first stage with Σ chance·exp(-margin/scale) > flips, margin: best - second perturbed logit of the draft."""
    flips = 0.0
    for i, images in enumerate(context.margins):
        flips = max(g.chance * sum(math.exp(-m / g.scale) for m in tokens) for tokens in images)  # of the least sure image
        if flips > g.flips or i + 1 == g.largest:
            return i + 1, f"{flips:.2f} flips expected at stage {context.stage + i}"
    return len(context.margins) + 1, f"{flips:.2f} flips expected so far"
