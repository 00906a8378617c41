"""Models made of the target's own weights, for proposals: its first blocks, or a copy in less precision."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any, cast

import torch

from sdvar_exp.models.accelerate import Wrapped
from sdvar_exp.models.cache import KVCache
from sdvar_exp.models.products import round_to_int8
from sdvar_exp.models.var import VAR, Condition


class FirstBlocks(Wrapped):
    """The first `depth` blocks of a model with its head: an early exit. Shares the weights."""

    def __init__(self, model: VAR, depth: int) -> None:
        super().__init__(model)
        self.depth = depth

    def condition(self, labels_N: torch.Tensor) -> Condition:
        """As the model's, for the first blocks."""
        return self.model.condition(labels_N, self.depth)

    def new_cache(self, batch: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache of as many blocks."""
        return self.model.new_cache(batch, dtype, self.depth)

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.model(*args, **kwargs)


@lru_cache(maxsize=8)
def first_blocks(model: VAR, depth: int) -> VAR:
    """The first `depth` blocks of a model, with its head."""
    return cast(VAR, FirstBlocks(model, depth))


@lru_cache(maxsize=2)
def less_precise(model: VAR, precision: str) -> VAR:
    """A copy of a model in `bfloat16`, or with its products in `int8` (`Int8`)."""
    made = copy.deepcopy(model)
    if precision == "bfloat16":
        return made.to(torch.bfloat16)
    round_to_int8(made)
    return made
