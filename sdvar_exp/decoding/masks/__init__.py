"""Attention masks of merged passes, as predicates on absolute positions. No torch.

A pass over the stages n … e (e: the entry stage, its last) has rows o_n … o_{e+1}-1 and columns 0 … o_{e+1}-1:

    columns  0 | 1 1 1 1 | 2 …        a True means: this row may attend to that column
    row of stage s(i), column of stage s(j)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sdvar_exp.errors import UserError
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import Choice, choose

Places = NDArray[np.int64]
Matrix = NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """Index arrays of one pass: rows (q, 1), columns (1, K) and their stages; `entry` is the last stage."""

    row: Places
    column: Places
    row_stage: Places
    column_stage: Places
    entry: int


def grid(pyramid: Pyramid, first: int, stop: int) -> Grid:
    """The grid of a pass over the stages first … stop-1, behind a cache of all stages before."""
    if not 0 <= first < stop <= pyramid.stages:
        raise UserError(f"a pass needs 0 ≤ first < stop ≤ {pyramid.stages}, got {first}, {stop}")
    stage = np.asarray(pyramid.stage_of)
    row = np.arange(pyramid.offsets[first], pyramid.offsets[stop])[:, None]
    column = np.arange(pyramid.offsets[stop])[None, :]
    return Grid(row, column, stage[row], stage[column], stop - 1)


@lru_cache(maxsize=4096)
def materialise(mask: Choice, pyramid: Pyramid, first: int, stop: int, fed: int | None = None) -> np.ndarray:
    """Boolean matrix (rows, columns) of a pass over the stages first … stop-1; read-only.

    With `fed` < first, rows of the stages fed … first-1 (recomputed ones) stand before and are block-causal.
    """
    g = grid(pyramid, first, stop)
    out = np.broadcast_to(mask.entry.function(mask.params, g), (g.row.size, g.column.size))
    if fed is not None and fed < first:
        early = np.zeros((pyramid.count(fed, first), g.column.size), dtype=bool)
        columns = pyramid.offsets[first]
        early[:, :columns] = materialise(choose("mask", "block_causal"), pyramid, fed, first)
        out = np.concatenate((early, out))
    out = np.ascontiguousarray(out)
    out.setflags(write=False)
    return out


def spans(matrix: np.ndarray, limit: int) -> tuple[tuple[int, int, int, int], ...] | None:
    """A mask as runs of equal rows: (row, row stop, column, column stop) each.

    None where a run sees columns that do not lie together, or where there are more than `limit` runs: then only the matrix
    says it. A run needs no mask: attention kernels that take none (flash) do, and columns that nobody sees cost nothing.
    """
    edges = [0, *(np.flatnonzero((matrix[1:] != matrix[:-1]).any(axis=1)) + 1).tolist(), len(matrix)]
    if len(edges) - 1 > limit:
        return None
    out = []
    for a, b in pairwise(edges):
        seen = np.flatnonzero(matrix[a])
        if not seen.size or seen[-1] - seen[0] + 1 != seen.size:
            return None
        out.append((a, b, int(seen[0]), int(seen[-1]) + 1))
    return tuple(out)
