"""Speculative decoding with a γ controller."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdvar_exp.decoding.options import Loop, check_loop
from sdvar_exp.decoding.speculate import speculate
from sdvar_exp.registry import Choice, register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell
    from sdvar_exp.decoding.decoder import Decoder


def canonical(cell: Cell) -> Cell:
    """`dynamic_gamma gamma=fixed` is the same cell as `parallel_v1`."""
    if cell.gamma is not None and cell.gamma.name == "fixed":
        return replace(cell, strategy=Choice("strategy", "parallel_v1", cell.strategy.params))
    return cell


@register(
    "strategy",
    "dynamic_gamma",
    Loop,
    reads=("mask", "acceptance", "gamma", "noise"),
    loop=True,
    check=check_loop,
    canonical=canonical,
)
def dynamic_gamma(s: Loop, d: Decoder) -> None:
    """The loop of parallel_v1; a γ controller picks γ each round."""
    speculate(d, s, until=d.stages)
