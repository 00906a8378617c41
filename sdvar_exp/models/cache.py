"""A preallocated, explicit key/value cache.

Position-addressed: a forward writes its rows behind `length` and advances nothing. The caller decides
with `advance` what stays; a rollback is to not advance, or `truncate`. Rows behind `length` are scratch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdvar_exp.errors import UserError


class KVCache:
    """Keys and values of all blocks, `kv`: (depth, 2, N, heads, capacity, head_dim)."""

    def __init__(
        self, depth: int, batch: int, heads: int, capacity: int, head_dim: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.kv = torch.empty(depth, 2, batch, heads, capacity, head_dim, dtype=dtype, device=device)  # written before read
        self.length = 0

    @classmethod
    def over(cls, kv: torch.Tensor, length: int = 0) -> KVCache:
        """A cache on memory that is there, its first `length` rows in use."""
        out = cls.__new__(cls)
        out.kv, out.length = kv, length
        return out

    @property
    def capacity(self) -> int:
        return self.kv.shape[4]

    @property
    def nbytes(self) -> int:
        return self.kv.numel() * self.kv.element_size()

    def slots(self, block: int, rows: slice, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Room for the next `count` keys and values of one block: views (N, heads, count, head_dim) behind `length`."""
        end = self.length + count
        if end > self.capacity:
            raise ValueError(f"cache of {self.capacity} rows cannot take {end}")
        both = self.kv[block, :, rows, :, self.length : end]
        return both[0], both[1]

    def view(self, block: int, rows: slice, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of one block up to the next `count` ones: views (N, heads, length + count, head_dim)."""
        both = self.kv[block, :, rows, :, : self.length + count]
        return both[0], both[1]

    def room(self, rows: int) -> KVCache:
        """This cache if it takes `rows` more, else a copy that does."""
        if self.length + rows <= self.capacity:
            return self
        kv = self.kv.new_empty(*self.kv.shape[:4], self.length + rows, self.kv.shape[5])
        kv[..., : self.length, :] = self.kv[..., : self.length, :]
        return KVCache.over(kv, self.length)

    def move(self, batch_rows: Sequence[int], source: int, to: int, count: int) -> None:
        """Copy `count` rows of some batch rows from one position to another; the two runs do not overlap."""
        at = torch.tensor(batch_rows, device=self.kv.device)
        self.kv[:, :, at, :, to : to + count] = self.kv[:, :, at, :, source : source + count]

    def advance(self, rows: int) -> None:
        """Keep the `rows` rows that the last forward wrote."""
        if rows < 0 or self.length + rows > self.capacity:
            raise ValueError(f"cannot advance {rows} rows from {self.length} of {self.capacity}")
        self.length += rows

    def truncate(self, length: int) -> None:
        """Roll back to the first `length` rows. Copies nothing."""
        if not 0 <= length <= self.length:
            raise UserError(f"cache of {self.length} rows cannot be truncated to {length}")
        self.length = length
