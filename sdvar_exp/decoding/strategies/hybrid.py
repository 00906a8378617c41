"""Speculation where calls cost, collaboration where tokens cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdvar_exp.decoding.options import Loop, check_loop
from sdvar_exp.decoding.speculate import speculate
from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell
    from sdvar_exp.decoding.decoder import Decoder


@dataclass(frozen=True)
class Hybrid(Loop):
    """The loop's options, and verify_until: stages before it are verified, the draft alone does the rest."""

    verify_until: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.verify_until >= 0, f"strategy.verify_until must be ≥ 0, got {self.verify_until}")


def check(cell: Cell, stages: int) -> None:
    n = cell.strategy.params.verify_until
    require(n <= stages, f"strategy.verify_until must lie in 0 … {stages}, got {n}")
    check_loop(cell, stages)


@register("strategy", "hybrid", Hybrid, reads=("mask", "acceptance", "gamma", "noise"), partly_loop=True, check=check)
def hybrid(s: Hybrid, d: Decoder) -> None:
    """The loop for the stages < verify_until, then the draft alone on its own KV cache."""
    speculate(d, s, until=s.verify_until)
    while not d.done:
        d.sample_alone("draft")
