"""Hand-off from the draft to the target (`sd_test3` in the SDVAR sources)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell
    from sdvar_exp.decoding.decoder import Decoder


@dataclass(frozen=True)
class Test3:
    """entry_num: stages that the draft generates; 0 is `sequential`, S is `draft_only`."""

    __test__ = False  # not a test, whatever its name

    entry_num: int = 5

    def __post_init__(self) -> None:
        require(self.entry_num >= 0, f"strategy.entry_num must be ≥ 0, got {self.entry_num}")


def check(cell: Cell, stages: int) -> None:
    n = cell.strategy.params.entry_num
    require(n <= stages, f"strategy.entry_num must lie in 0 … {stages}, got {n}")


@register("strategy", "test3", Test3, reads=("mask", "noise"), check=check)
def test3(s: Test3, d: Decoder) -> None:
    """The draft makes the stages < K, the target takes them and stage K in one masked forward (SDVAR): S - K calls."""
    for _ in range(s.entry_num):
        d.sample_alone("draft")
    if s.entry_num and not d.done:  # at 0 there is no prefix to hand over: `sequential`, whatever the mask
        d.sample_alone("target", mask=d.cell.mask)
    while not d.done:
        d.sample_alone("target")


test3.__test__ = False  # type: ignore[attr-defined]
