"""Shared noise: Gumbel variables and uniforms as a pure function of what is sampled, never of when.

g = g(label, seed, row, stream, stage, position, code) through Philox4x32-10 (Salmon et al., SC 2011). Key = (label,
seed); counter = (code // 4, position, stage, row · 4 + stream); the four output words serve four codes. Distinct
arguments give distinct counters, so streams never overlap. Made with NumPy on the CPU, hence equal on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

import numpy as np
import torch

from sdvar_exp.cell import Unit
from sdvar_exp.errors import UserError
from sdvar_exp.pyramid import Pyramid

LIMIT = 2**32


class Stream(IntEnum):
    """Independent sources of randomness within one image."""

    draft = 0
    target = 1
    accept = 2
    residual = 3


def philox4x32(counter: Sequence[np.ndarray | np.uint64], key: tuple[int, int]) -> list[np.ndarray]:
    """Ten rounds of Philox4x32: four uint32 words per counter (broadcast shapes)."""
    mask = np.uint64(0xFFFFFFFF)
    c = [np.asarray(x, dtype=np.uint64) for x in np.broadcast_arrays(*counter)]
    k0, k1 = key
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), b & mask, (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), a & mask]
        k0, k1 = (k0 + 0x9E3779B9) % LIMIT, (k1 + 0xBB67AE85) % LIMIT
    return c


def uniforms(unit: Unit, stream: Stream, stage: int, positions: int, codes: int, first: int = 0) -> np.ndarray:
    """u = (i + ½) / 2³² in (0, 1) of the codes first, first + 1, …, float64 (positions, codes); 4 divides `first`."""
    for name, value in (("label", unit.label), ("seed", unit.seed)):
        if not 0 <= value < LIMIT:
            raise UserError(f"{name} must lie in 0 … 2³²-1 to key the noise, got {value}")
    blocks = np.arange(first // 4, first // 4 - (-codes // 4), dtype=np.uint64)[None, :]
    place = np.arange(positions, dtype=np.uint64)[:, None]
    tail = np.uint64(unit.row * 4 + int(stream))
    words = philox4x32((blocks, place, np.uint64(stage), tail), (unit.label, unit.seed))
    return (np.stack(words, axis=-1).reshape(positions, -1)[:, :codes] + 0.5) / LIMIT


def gumbels(unit: Unit, stream: Stream, stage: int, positions: int, codes: int) -> np.ndarray:
    """g = -log(-log u), computed in float64, rounded to float32 (positions, codes)."""
    return np.asarray(-np.log(-np.log(uniforms(unit, stream, stage, positions, codes))), np.float32)


class NoiseBook:
    """The noise of B units for every stream and stage, made on first use or ahead by `prepare`."""

    def __init__(self, pyramid: Pyramid, vocab_size: int, units: Sequence[Unit], device: torch.device | str = "cpu"):
        self.pyramid, self.vocab_size, self.units, self.device = pyramid, vocab_size, tuple(units), device
        self._kept: dict[tuple[Stream, int], torch.Tensor] = {}

    def gumbel(self, stream: Stream, stage: int) -> torch.Tensor:
        """Gumbel variables of one stage, float32 (B, L_k, V)."""
        return self._get(stream, stage, lambda u, n: gumbels(u, stream, stage, n, self.vocab_size))

    def uniform(self, stage: int) -> torch.Tensor:
        """Acceptance uniforms of one stage, float64 (B, L_k)."""
        return self._get(Stream.accept, stage, lambda u, n: uniforms(u, Stream.accept, stage, n, 1)[:, 0])

    def attempts(self, stage: int, first: int, count: int, images: Sequence[int]) -> torch.Tensor:
        """Uniforms of the attempts first, first + 1, … at a residual, float64 (images, L_k + 1, count); not kept.

        They are the residual stream with the attempt in the place of the code. The last position is that of the decision.
        """
        n = self.pyramid.lengths[stage] + 1
        made = [uniforms(self.units[i], Stream.residual, stage, n, count, first) for i in images]
        return torch.from_numpy(np.stack(made)).to(self.device)

    def _get(self, stream: Stream, stage: int, make: Callable[[Unit, int], np.ndarray]) -> torch.Tensor:
        if (stream, stage) not in self._kept:
            n = self.pyramid.lengths[stage]
            stacked = np.stack([make(u, n) for u in self.units])
            self._kept[stream, stage] = torch.from_numpy(stacked).to(self.device)
        return self._kept[stream, stage]

    def prepare(self, streams: Sequence[Stream]) -> NoiseBook:
        """Make the given streams now, outside the clock."""
        for stream in streams:
            for stage in range(self.pyramid.stages):
                self.uniform(stage) if stream == Stream.accept else self.gumbel(stream, stage)
        return self
