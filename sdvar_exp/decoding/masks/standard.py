"""The masks of the SDVAR sources, under names instead of the codes 0 … 5, and `local_stages`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdvar_exp.decoding.masks import Grid, Matrix, Places
from sdvar_exp.errors import require
from sdvar_exp.registry import Empty, register


def _equal(a: Places, b: Places | int) -> Matrix:
    """Boolean array, true where a = b; NumPy leaves `==` untyped."""
    return np.asarray(a == b)


@register("mask", "no_prefix", code=0, feeds="entry", trained=False)
def no_prefix(_: Empty, g: Grid) -> Matrix:
    """s(i) = s(j) = e, for `test3` only: just the rows of the entry stage are fed, nothing before them is cached."""
    return _equal(g.row_stage, g.entry) & _equal(g.column_stage, g.entry)


@register("mask", "token_causal_blocks", code=1, trained=False)
def token_causal_blocks(_: Empty, g: Grid) -> Matrix:
    """s(j) < s(i), or j = i: a token sees earlier stages and itself. Out of distribution."""
    return (g.column_stage < g.row_stage) | _equal(g.column, g.row)


@register("mask", "token_causal_blocks_entry_full", code=2, trained=False)
def token_causal_blocks_entry_full(_: Empty, g: Grid) -> Matrix:
    """s(j) < s(i), or j = i, or s(i) = e: rows of the entry stage e see all. Out of distribution."""
    return (g.column_stage < g.row_stage) | _equal(g.column, g.row) | _equal(g.row_stage, g.entry)


@register("mask", "block_causal", code=3, trained=True, lossless=True)
def block_causal(_: Empty, g: Grid) -> Matrix:
    """s(j) ≤ s(i): what VAR is trained with (arXiv 2404.02905)."""
    return g.column_stage <= g.row_stage


@register("mask", "block_diagonal", code=4, trained=False)
def block_diagonal(_: Empty, g: Grid) -> Matrix:
    """s(j) = s(i): a stage sees only itself. Out of distribution."""
    return _equal(g.column_stage, g.row_stage)


@register("mask", "block_diagonal_entry_full", code=5, trained=False)
def block_diagonal_entry_full(_: Empty, g: Grid) -> Matrix:
    """s(j) = s(i), or s(i) = e: rows of the entry stage e see all. Out of distribution."""
    return _equal(g.column_stage, g.row_stage) | _equal(g.row_stage, g.entry)


@dataclass(frozen=True)
class Window:
    """window: how many stages a row looks back on, its own included."""

    window: int = 3

    def __post_init__(self) -> None:
        require(self.window >= 1, f"mask.window must be ≥ 1, got {self.window}")


@register("mask", "local_stages", Window, trained=False)
def local_stages(m: Window, g: Grid) -> Matrix:
    """s(i)-w < s(j) ≤ s(i), and stage 0 always. Out of distribution."""
    near = (g.column_stage > g.row_stage - m.window) & (g.column_stage <= g.row_stage)
    return near | _equal(g.column_stage, 0)
