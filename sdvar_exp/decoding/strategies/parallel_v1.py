"""Speculative decoding with a fixed γ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdvar_exp.decoding.options import Loop, check_loop
from sdvar_exp.decoding.speculate import speculate
from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell
    from sdvar_exp.decoding.decoder import Decoder


def check(cell: Cell, stages: int) -> None:
    name = cell.gamma.name if cell.gamma else "none"
    require(name == "fixed", f"parallel_v1 takes gamma=fixed only, got gamma={name}; use strategy=dynamic_gamma for it")
    check_loop(cell, stages)


@register("strategy", "parallel_v1", Loop, reads=("mask", "acceptance", "gamma", "noise"), loop=True, check=check)
def parallel_v1(s: Loop, d: Decoder) -> None:
    """Draft γ stages, verify them in one target forward, commit; γ is fixed (SDVAR, after arXiv 2211.17192)."""
    speculate(d, s, until=d.stages)
