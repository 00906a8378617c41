"""The pyramid of scales: every stage index, token count and offset comes from here.

Knows the sides `patch_nums`; knows nothing of models, codes or devices.

Key to the letters used in shape suffixes all over the project:
B images, N batch rows fed (B or 2B under guidance), S stages, k a stage, l tokens of one stage,
L tokens of all stages, q query rows of a pass, K key rows, V codebook size, c code width,
C transformer width, h/w feature-map height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from sdvar_exp.errors import UserError

SKIPPED = -1
"""In the place of every token of a stage that nobody made: equal to no code."""


@dataclass(frozen=True)
class Pyramid:
    """Sides of the S scales, ascending, e.g. (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)."""

    patch_nums: tuple[int, ...]

    def __post_init__(self) -> None:
        sides = self.patch_nums
        if not sides or any(not isinstance(p, int) or p < 1 for p in sides):
            raise UserError(f"patch_nums must be positive integers, got {sides!r}")
        if any(a >= b for a, b in pairwise(sides)):
            raise UserError(f"patch_nums must increase, got {sides!r}")

    @property
    def stages(self) -> int:
        """S, the number of stages."""
        return len(self.patch_nums)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """L_k, tokens of each stage."""
        return tuple(p * p for p in self.patch_nums)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """o_k, position of the first token of each stage; one more entry for the end, o_S = L."""
        out = [0]
        for n in self.lengths:
            out.append(out[-1] + n)
        return tuple(out)

    @property
    def total(self) -> int:
        """L, tokens of all stages."""
        return self.offsets[-1]

    @property
    def side(self) -> int:
        """p_{S-1}, the side of the last stage and of the feature map."""
        return self.patch_nums[-1]

    @cached_property
    def stage_of(self) -> tuple[int, ...]:
        """Stage of each of the L positions."""
        return tuple(k for k, n in enumerate(self.lengths) for _ in range(n))

    def rows(self, first: int, stop: int) -> slice:
        """Positions of the stages first … stop-1."""
        return slice(self.offsets[first], self.offsets[stop])

    def count(self, first: int, stop: int) -> int:
        """Tokens of the stages first … stop-1."""
        return self.offsets[stop] - self.offsets[first]
