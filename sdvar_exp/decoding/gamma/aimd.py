"""Additive increase, additive or multiplicative decrease."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sdvar_exp.decoding.gamma import GammaContext
from sdvar_exp.errors import require
from sdvar_exp.registry import register


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
