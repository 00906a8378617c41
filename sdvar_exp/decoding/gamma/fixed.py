"""The same γ every round."""

from __future__ import annotations

from dataclasses import dataclass

from sdvar_exp.decoding.gamma import GammaContext
from sdvar_exp.errors import require
from sdvar_exp.registry import register


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
