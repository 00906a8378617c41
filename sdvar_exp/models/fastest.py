"""Finds the fastest way of a product on this machine (`model.execution=auto`): measured once, then known.

All ways are exact: `F.linear`, oneDNN's own layout of the weight, and the same with GELU inside. What was found is kept in the
user's cache (`$XDG_CACHE_HOME/sdvar-exp/products`), a small file for each shape, processor, number of threads and PyTorch. The
first process that writes one decides for all, so that the processes of a study agree.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from sdvar_exp.guest import expand, processor
from sdvar_exp.models.products import Prepacked

if TYPE_CHECKING:
    from sdvar_exp.models.var import VAR

log = logging.getLogger(__name__)
GAIN = 1.03  # a way other than the plain one must be this many times as fast
LEAST, MOST, ENOUGH_S = 5, 25, 0.3  # interleaved repeats of a shape, fewer than most once they took so long
LARGEST = 512  # rows; more go through in groups (`var.ROWS_AT_ONCE`)
FUSED = {"packed": False, "fused": True}


def use_fastest(model: VAR) -> None:
    """Give each product of a transformer the way that is fastest for its shape, in place.

    Those of a first, a middle and a last stage are timed, of one guided image. Left alone are layers that are prepared already,
    on other devices than the CPU, or in float64 and float16.
    """
    lengths, gelus = model.pyramid.lengths, {id(block.ffn.fc1) for block in model.layers}
    rows = sorted({min(2 * lengths[i], LARGEST) for i in (0, len(lengths) // 2, -1)})
    for layer in model.products:
        weight = layer.weight
        if "packed" in vars(layer) or weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
            continue
        way = known_way(layer, id(layer) in gelus, rows)
        if way in FUSED:
            layer.packed = Prepacked(weight, rows[-1], FUSED[way])  # type: ignore[assignment]
            layer.weight.data = weight.data[:0].clone()


def ways_of(*models: Any) -> str:
    """The ways of all products in a few words: how many are of which kind, and a hash of which."""
    each = [[way_of(layer) for layer in model.products] for model in models]
    flat = sorted(way for ways in each for way in ways)
    counts = ", ".join(f"{flat.count(way)} {way}" for way in dict.fromkeys(flat))
    return f"{hashlib.sha256(json.dumps(each).encode()).hexdigest()[:8]} ({counts})"


def way_of(layer: nn.Linear) -> str:
    """plain, packed or fused; int8 where the layer is that."""
    packed = vars(layer).get("packed")
    if packed is None:
        return "plain"
    return type(packed).__name__.lower() if not isinstance(packed, Prepacked) else "fused" if packed.fused else "packed"


def known_way(layer: nn.Linear, gelu: bool, rows: list[int]) -> str:
    """The way that was found for such a layer on this machine, measured now if none was."""
    described = {
        "product": [*layer.weight.shape, "gelu" if gelu else "", str(layer.weight.dtype)],
        "rows": rows,
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    name = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
    file = cache_folder() / f"{name}.json"
    found = _read(file)
    if found is None:
        seconds = measured(layer, gelu, rows)
        found = fastest(seconds)
        kept = {way: [float(f"{1e3 * s:.4g}") for s in took] for way, took in seconds.items()}
        found = _keep(file, {**described, "way": found, "ms": kept}) or found
    return found


def fastest(seconds: dict[str, list[float]]) -> str:
    """The way with the greatest gain; `plain` unless that is clear: in the median, and in three quarters of the repeats."""
    plain = seconds["plain"]

    def gains(way: str) -> list[float]:
        return sorted(a / b for a, b in zip(plain, seconds[way], strict=True))

    clear = [way for way in seconds if way != "plain" and gains(way)[len(plain) // 4] > 1 and _middle(gains(way)) > GAIN]
    return max(clear, key=lambda way: _middle(gains(way)), default="plain")


def _middle(ascending: list[float]) -> float:
    return ascending[len(ascending) // 2]


@torch.inference_mode()
def measured(layer: nn.Linear, gelu: bool, rows: list[int]) -> dict[str, list[float]]:
    """Seconds of each way, all numbers of rows together, repeat by repeat in turn."""
    weight = layer.weight.detach()
    bias = weight.new_zeros(len(weight))
    made = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, n, weight.shape[1], generator=made).to(weight.dtype) for n in rows]

    def plain(h: torch.Tensor) -> torch.Tensor:
        out = F.linear(h, weight, bias)
        return torch.ops.aten.gelu_(out, approximate="tanh") if gelu else out

    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"plain": plain}
    with suppress(RuntimeError):  # this processor or build has no such products
        for way in ("packed", "fused") if gelu else ("packed",):
            packed = Prepacked(weight, rows[-1], FUSED[way])
            packed(inputs[0], bias, gelu)
            ways[way] = lambda h, packed=packed: packed(h, bias, gelu)  # type: ignore[misc]
    if len(ways) == 1:
        return {"plain": [0.0]}
    took: dict[str, list[float]] = {way: [] for way in ways}
    began = time.perf_counter()
    for i in range(-1, MOST):
        for way in list(ways)[i % len(ways) :] + list(ways)[: i % len(ways)]:
            start = time.perf_counter()
            for h in inputs:
                ways[way](h)
            if i >= 0:
                took[way].append(time.perf_counter() - start)
        if i + 1 >= LEAST and time.perf_counter() - began > ENOUGH_S:
            break
    return took


def cache_folder() -> Path:
    """Folder of the kept ways."""
    return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sdvar-exp" / "products"


def _read(file: Path) -> str | None:
    """The way that a file tells; None where it is not there or damaged."""
    try:
        way = json.loads(file.read_bytes())["way"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return way if way in ("plain", *FUSED) else None


def _keep(file: Path, content: dict[str, Any]) -> str | None:
    """Write what was found, unless another process did; what then holds, None where nothing can be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and _read(file) is None:  # damaged
            file.unlink()
        with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".part", delete=False) as made:
            json.dump(content, made, indent=1)
        with suppress(FileExistsError):
            os.link(made.name, file)
        os.unlink(made.name)
    except OSError as error:
        log.warning("%s: %s; the fastest products are measured anew in every process", file.parent, error.strerror)
        return None
    return _read(file)
