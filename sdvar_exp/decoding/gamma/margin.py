"""γ by how sure the draft was of its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdvar_exp.decoding.gamma import GammaContext
from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell


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


def check(cell: Cell, stages: int) -> None:
    skips = getattr(cell.strategy.params, "skip_last", False)
    require(not skips, "gamma=margin reads the tokens of every proposed stage: use strategy.skip_last=false")


@register("gamma", "margin", Margin, reads_margins=True, check=check)
def margin(g: Margin, context: GammaContext) -> tuple[int, str]:
    """γ up to the first stage with Σ chance·exp(-margin/scale) > flips, margin: best - second perturbed logit of the draft."""
    flips = 0.0
    for i, images in enumerate(context.margins):
        flips = max(g.chance * sum(math.exp(-m / g.scale) for m in tokens) for tokens in images)  # of the least sure image
        if flips > g.flips or i + 1 == g.largest:
            return i + 1, f"{flips:.2f} flips expected at stage {context.stage + i}"
    return len(context.margins) + 1, f"{flips:.2f} flips expected so far"
