"""γ from the acceptance so far in this decode."""

from __future__ import annotations

from dataclasses import dataclass

from sdvar_exp.decoding.gamma import GammaContext
from sdvar_exp.errors import require
from sdvar_exp.registry import register


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
