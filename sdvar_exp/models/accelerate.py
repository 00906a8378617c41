"""Executes a transformer's forwards: as they are written, under autocast, with the fastest products of this machine,
compiled, or as CUDA graphs.

Every forward of a decode has a static shape: its stages, the rows cached before them, the batch. `Compiled` and `Graphs` keep
one program per shape, made when it first occurs (so warm up before timing), and are called like the `VAR` that they wrap.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, cast

import torch

from sdvar_exp.errors import UserError
from sdvar_exp.models.cache import KVCache
from sdvar_exp.models.fastest import use_fastest
from sdvar_exp.models.layers import Spans
from sdvar_exp.models.var import VAR, Condition

PROGRAMS = 512  # compiled variants of one model at most: stages, merged runs of stages, batches
Capture = Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]]
"""Records a function that reads and writes fixed memory; what it gives runs it again and gives its result."""


def accelerate(model: VAR, execution: str, autocast: str = "none") -> VAR:
    """The model under `eager`, `auto` (see `fastest`), `compile` or `graphs`, its products in the type of `autocast`.

    Raises:
        UserError: graphs without CUDA, autocast of a model that is not in float32.
    """
    if autocast != "none":
        if model.dtype != torch.float32:
            kind = str(model.dtype).removeprefix("torch.")
            raise UserError(f"model.autocast={autocast} needs dtype=float32, this is {kind}; set one of the two")
        model = cast(VAR, Autocast(model, getattr(torch, autocast)))
    if execution == "auto":
        use_fastest(model)
    if execution in ("eager", "auto"):
        return model
    if execution == "compile":
        return cast(VAR, Compiled(model))
    if model.device.type != "cuda":
        raise UserError(f"model.execution=graphs needs device=cuda, this is {model.device.type}; use eager or compile")
    return cast(VAR, Graphs(model, capture_cuda))


class Wrapped:
    """All of a model but its forward."""

    def __init__(self, model: VAR) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class Autocast(Wrapped):
    """Forwards under `torch.autocast`: products and attention in half precision, norms and residual stream in float32.

    The weights of the products are rounded once, in place, to what autocast would round them to in every call; embeddings
    and modulations, needed once per decode, stay in float32. Keys and values are cached in half precision.
    """

    def __init__(self, model: VAR, dtype: torch.dtype) -> None:
        super().__init__(model)
        self.low, self.dtype = dtype, model.dtype
        for layer in model.products:
            layer.weight.data = layer.weight.data.to(dtype)

    def new_cache(self, batch: int, dtype: torch.dtype | None = None, depth: int | None = None) -> KVCache:
        return self.model.new_cache(batch, dtype or self.low, depth)

    def forward(self, x_NqC: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.autocast(x_NqC.device.type, self.low):
            return self.model.forward(x_NqC, *args, **kwargs)

    __call__ = forward


class Compiled(Wrapped):
    """`torch.compile` with static shapes: one program per stage, as fast as compiling ever gets and slow to start."""

    def __init__(self, model: VAR, backend: str = "inductor") -> None:
        super().__init__(model)
        self.program = torch.compile(model.forward, dynamic=False, backend=backend)

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch._dynamo.config.patch(recompile_limit=PROGRAMS, accumulated_recompile_limit=4 * PROGRAMS):
            return self.program(*args, **kwargs)


def capture_cuda(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A CUDA graph of `run`, after the warm-up on a stream of its own that capturing wants."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay() -> torch.Tensor:
        graph.replay()
        return out

    return replay


class Graphs(Wrapped):
    """One recorded program per shape, on memory that stays where it is.

    Caches come from a pool and go back to it when nobody holds them any more; a condition is copied to its fixed place when
    another one than before is used; rows are copied in, logits out.
    """

    def __init__(self, model: VAR, capture: Capture) -> None:
        super().__init__(model)
        self.capture = capture
        self.pool: list[tuple[torch.Tensor, weakref.ref[KVCache]]] = []
        self.placed: dict[int, Condition] = {}  # by number of rows
        self.loaded: dict[int, Condition] = {}
        self.programs: dict[Hashable, tuple[torch.Tensor, torch.Tensor | None, Callable[[], torch.Tensor]]] = {}

    def new_cache(self, batch: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache on memory that was used before, if any is free."""
        fresh = self.model.new_cache(batch, dtype) if not self._free(batch) else KVCache.over(self._free(batch)[0])
        self.pool = [(kv, owner) for kv, owner in self.pool if kv is not fresh.kv]
        self.pool.append((fresh.kv, weakref.ref(fresh)))
        return fresh

    def _free(self, batch: int) -> list[torch.Tensor]:
        return [kv for kv, owner in self.pool if owner() is None and kv.shape[2] == batch]

    def __call__(
        self,
        x_NqC: torch.Tensor,
        condition: Condition,
        cache: KVCache,
        mask_qK: torch.Tensor | None = None,
        rows: slice = slice(None),
        spans: Spans | None = None,
    ) -> torch.Tensor:
        fixed = self._place(condition)
        key = (
            x_NqC.shape,
            cache.kv.data_ptr(),
            cache.length,
            rows.start,
            rows.stop,
            spans,
            None if mask_qK is None or spans is not None else id(mask_qK),
        )
        if key not in self.programs:
            buffer, at = x_NqC.clone(), KVCache.over(cache.kv, cache.length)
            replay = self.capture(lambda: self.model(buffer, fixed, at, mask_qK, rows, spans))
            self.programs[key] = (buffer, mask_qK, replay)
        buffer, _, replay = self.programs[key]
        buffer.copy_(x_NqC)
        return replay().clone()

    def _place(self, condition: Condition) -> Condition:
        """The condition at its fixed place."""
        count = len(condition.class_NC)
        if count not in self.placed:
            self.placed[count] = Condition(
                condition.class_NC.clone(),
                tuple(tuple(t.clone() for t in block) for block in condition.blocks),
                (condition.head[0].clone(), condition.head[1].clone()),
                condition.layers,
            )
        elif self.loaded.get(count) is not condition:
            for old, new in zip(_tensors(self.placed[count]), _tensors(condition), strict=True):
                old.copy_(new)
        self.loaded[count] = condition
        return self.placed[count]


def _tensors(condition: Condition) -> list[torch.Tensor]:
    return [condition.class_NC, *(t for block in condition.blocks for t in block), *condition.head]
