"""Collaborative decoding, the other order of hand-off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell
    from sdvar_exp.decoding.decoder import Decoder


@dataclass(frozen=True)
class Collaborative:
    """target_stages: N, stages that the large model generates before the small one takes over."""

    target_stages: int = 8

    def __post_init__(self) -> None:
        require(self.target_stages >= 0, f"strategy.target_stages must be ≥ 0, got {self.target_stages}")


def check(cell: Cell, stages: int) -> None:
    n = cell.strategy.params.target_stages
    require(n <= stages, f"strategy.target_stages must lie in 0 … {stages}, got {n}")


@register("strategy", "collaborative", Collaborative, reads=("noise",), check=check)
def collaborative(s: Collaborative, d: Decoder) -> None:
    """CoDe (Chen et al., CVPR 2025): the target does the first N stages, the draft takes the prefix and does the rest."""
    for _ in range(s.target_stages):
        d.sample_alone("target")
    while not d.done:
        d.sample_alone("draft")
