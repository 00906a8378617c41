"""Finds the fastest ways of the products on this machine (`model.execution=auto`): measured once, then known.

All ways are exact: `F.linear`, oneDNN's own layout of the weight, and the same with GELU inside. Each shape of a product is
timed alone. Then forwards of the transformer show from how many rows on the winners are faster in their place too, where other
work has filled the caches. What was found is kept in the user's cache (`$XDG_CACHE_HOME/sdvar-exp/products`), a small file for
each shape, processor, number of threads and PyTorch. The first process that writes one decides for all, so that the processes
of a study agree.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from sdvar_exp.guest import expand, processor
from sdvar_exp.models.cache import KVCache
from sdvar_exp.models.products import Prepacked

if TYPE_CHECKING:
    from sdvar_exp.models.var import VAR, Condition

log = logging.getLogger(__name__)
GAIN, IN_PLACE = 1.03, 1.02  # a product, and a forward with such products, must be this many times as fast as the plain one
LEAST, MOST, ENOUGH_S = 6, 40, 0.5  # interleaved repeats, fewer than most once they took so long
LARGEST = 512  # rows; of more batch rows forwards go through in groups (`var.ROWS_AT_ONCE`)
DEPTH = 2  # blocks of the forwards that are timed
FUSED = {"packed": False, "fused": True}
Seconds = dict[str, list[list[float]]]
"""Of each way, repeat by repeat, for each number of rows."""


def use_fastest(model: VAR) -> None:
    """Give each product of a transformer the way that is fastest for its shape, in place.

    Timed with the rows of all stages of one guided image. Left alone are layers that are prepared already, on other devices
    than the CPU, or in float64 and float16.
    """
    rows = [min(2, max(1, LARGEST // n)) * n for n in model.pyramid.lengths]
    gelus, ways = {id(block.ffn.fc1) for block in model.layers}, {}
    for layer in model.products:
        weight = layer.weight
        if "packed" not in vars(layer) and weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16):
            way = known_way(layer, id(layer) in gelus, rows)
            if way in FUSED:
                ways[layer] = way

    def prepare(layer: nn.Linear) -> None:
        layer.packed = Prepacked(layer.weight.detach(), max(rows), FUSED[ways[layer]])  # type: ignore[assignment]

    timed = [layer for layer in ways if layer in _timed(model)]
    if not timed:
        return
    plain = _condition(model)
    for layer in timed:
        prepare(layer)
    pays, least = known_rows(model, plain, rows)
    for layer in timed:
        del layer.packed
    for layer in ways if pays != "plain" else ():
        prepare(layer)
        packed = cast(Prepacked, layer.packed)
        packed.least = least
        if not least:
            layer.weight.data = packed.plain = packed.plain[:0].clone()


def _timed(model: VAR) -> list[nn.Linear]:
    """The products of the forwards that are timed: of the first blocks and the head."""
    return model.products[: 1 + 4 * DEPTH]


def ways_of(*models: Any) -> str:
    """The ways of all products in a few words: how many are of which kind, and a hash of which."""
    each = [[way_of(layer) for layer in model.products] for model in models]
    flat = sorted(way for ways in each for way in ways)
    counts = ", ".join(f"{flat.count(way)} {way}" for way in dict.fromkeys(flat))
    return f"{hashlib.sha256(json.dumps(each).encode()).hexdigest()[:8]} ({counts})"


def way_of(layer: nn.Linear) -> str:
    """plain, packed or fused, the last two with the rows from which on; int8 where the layer is that."""
    packed = vars(layer).get("packed")
    if packed is None:
        return "plain"
    if not isinstance(packed, Prepacked):
        return type(packed).__name__.lower()
    return ("fused" if packed.fused else "packed") + (f" from {packed.least} rows" if packed.least else "")


def known_way(layer: nn.Linear, gelu: bool, rows: list[int]) -> str:
    """The way that was found for such a layer on this machine, measured now if none was."""
    product = [*layer.weight.shape, "gelu" if gelu else "", str(layer.weight.dtype)]
    described = {"product": product, "rows": rows}
    return _known(described, lambda: fastest(measured(layer, gelu, rows), rows, [0], GAIN))[0]


def known_rows(model: VAR, plain: Condition, rows: list[int]) -> tuple[str, int]:
    """Whether a transformer's prepared products pay in its forwards, and from how many rows on: `plain` or not, rows.

    In bfloat16 they are taken for all rows or for none: there a stage whose products change with the rows beside it, of a
    merged pass or of other images, is often sampled otherwise. plain: a condition that was made before they were prepared.
    """
    low = model.head.weight.dtype == torch.bfloat16
    starts = [0] if low else [0, *sorted(set(rows))[1:]]
    described = {
        "forward": [model.width, model.heads, model.vocab_size, min(model.depth, DEPTH), model.layers[0].attn.l2_norm],
        "products": [[*layer.weight.shape, way_of(layer)] for layer in _timed(model)],
        "types": [str(model.dtype), str(model.head.weight.dtype)],
        "stages": model.pyramid.lengths,
    }
    return _known(described, lambda: fastest(measured_forwards(model, plain), rows, starts, IN_PLACE))


_found: dict[str, tuple[str, int]] = {}


def _known(what: dict[str, Any], measure: Callable[[], tuple[tuple[str, int], Seconds]]) -> tuple[str, int]:
    """Look a measurement up, in the cache or in this process; make and keep it if nobody has."""
    described = {
        **what,
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    file = cache_folder() / f"{hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]}.json"
    found = _read(file) or _found.get(str(file))
    if found is None:
        found, seconds = measure()
        kept = {way: [[float(f"{1e3 * s:.4g}") for s in each] for each in took] for way, took in seconds.items()}
        found = _keep(file, {**described, "way": found[0], "least": found[1], "ms": kept}) or found
    _found[str(file)] = found
    return found


def fastest(seconds: Seconds, rows: list[int], starts: list[int], gain: float) -> tuple[tuple[str, int], Seconds]:
    """The way with the greatest gain over all stages together and which of `starts`, in rows, it is taken from; and `seconds`.

    seconds: of each way, repeat by repeat, for each stage; rows: of the stages; 0 among the starts: all rows. `plain` from 0 on
    unless another is clearly faster. It is chosen by every other repeat and must prove itself in the rest, since the best of
    many always looks good: by `gain` in the median, and in three quarters of the repeats.
    """

    def gains(way: str, start: int, first: int) -> list[float]:
        pairs = zip(seconds["plain"][first::2], seconds[way][first::2], strict=True)
        return sorted(sum(a) / sum(y if n >= start else x for n, x, y in zip(rows, a, b, strict=True)) for a, b in pairs)

    several = [(way, start) for way in seconds if way != "plain" for start in starts]
    if several:
        best = max(several, key=lambda one: _middle(gains(one[0], one[1], 0)))
        proof = gains(best[0], best[1], 1)
        if proof[len(proof) // 4] > 1 and _middle(proof) > gain:
            return best, seconds
    return ("plain", 0), seconds


def _middle(ascending: list[float]) -> float:
    return ascending[len(ascending) // 2]


@torch.inference_mode()
def measured(layer: nn.Linear, gelu: bool, rows: list[int]) -> Seconds:
    """Seconds of a product alone in each way."""
    weight = layer.weight.detach()
    bias = weight.new_zeros(len(weight))
    made = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, n, weight.shape[1], generator=made).to(weight.dtype) for n in rows]

    def plain(h: torch.Tensor) -> torch.Tensor:
        out = F.linear(h, weight, bias)
        return torch.ops.aten.gelu_(out, approximate="tanh") if gelu else out

    ways: dict[str, Callable[[int], object]] = {"plain": lambda i: plain(inputs[i])}
    with suppress(RuntimeError):  # this processor or build has no such products
        for way in ("packed", "fused") if gelu else ("packed",):
            packed = Prepacked(weight, max(rows), FUSED[way])
            packed(inputs[0], bias, gelu)
            ways[way] = lambda i, packed=packed: packed(inputs[i], bias, gelu)  # type: ignore[misc]
    return _in_turn(ways, len(rows)) if len(ways) > 1 else {"plain": [[0.0] * len(rows)]}


@torch.inference_mode()
def measured_forwards(model: VAR, plain: Condition) -> Seconds:
    """Seconds of the first blocks and the head on the rows of each stage, plain and with the prepared products."""
    ready, offsets = _condition(model), model.pyramid.offsets
    head = vars(model.head).get("packed")  # not in a condition
    cache = model.new_cache(2, depth=DEPTH)
    cache.kv.normal_()
    made = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, n, model.width, generator=made).to(model.dtype) for n in model.pyramid.lengths]

    def forward(stage: int, condition: Condition, least: int) -> None:
        if isinstance(head, Prepacked):
            head.least = least
        model(inputs[stage], condition, KVCache.over(cache.kv, offsets[stage]))

    ways = {"plain": lambda i: forward(i, plain, sys.maxsize), "prepared": lambda i: forward(i, ready, 0)}
    return _in_turn(ways, len(inputs))


def _condition(model: VAR) -> Condition:
    with torch.inference_mode():
        return model.condition(torch.tensor([0, model.num_classes], device=model.device), DEPTH)


def _in_turn(ways: Mapping[str, Callable[[int], object]], count: int) -> Seconds:
    """Seconds of each way for each of `count` inputs, the ways in turn."""
    took: Seconds = {way: [] for way in ways}
    began = time.perf_counter()
    for i in range(-1, MOST):
        each: dict[str, list[float]] = {way: [] for way in ways}
        for j in range(count):
            for way in list(ways)[(i + j) % len(ways) :] + list(ways)[: (i + j) % len(ways)]:
                start = time.perf_counter()
                ways[way](j)
                each[way].append(time.perf_counter() - start)
        if i >= 0:
            for way in ways:
                took[way].append(each[way])
        if i + 1 >= LEAST and time.perf_counter() - began > ENOUGH_S:
            break
    return took


def cache_folder() -> Path:
    """Folder of the kept ways."""
    return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sdvar-exp" / "products"


def _read(file: Path) -> tuple[str, int] | None:
    """The way that a file tells and from how many rows on; None where it is not there or damaged."""
    try:
        content = json.loads(file.read_bytes())
        way, least = content["way"], content["least"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return (way, least) if way in ("plain", "prepared", *FUSED) and type(least) is int and least >= 0 else None


def _keep(file: Path, content: dict[str, Any]) -> tuple[str, int] | None:
    """Write what was found, unless another process did; what then holds, None where nothing can be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and _read(file) is None:  # damaged
            file.unlink()
        with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".part", delete=False) as made:
            json.dump(content, made, indent=1)
        try:
            with suppress(FileExistsError):
                os.link(made.name, file)
        finally:
            os.unlink(made.name)
    except OSError as error:
        log.warning("%s: %s; the fastest products are measured anew in every process", file.parent, error.strerror)
        return None
    return _read(file)
