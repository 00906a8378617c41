"""Peak memory of a decode beside weights + cache + largest activation; the d16/d30 pair of the official size.

python -m benchmarks.memory --write            (the d16/d30 pair takes about 10 GB and some minutes on a CPU)
python -m benchmarks.memory --shapes 8x512
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import machine, parser, publish, start, table
from benchmarks.models import random_pair
from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import decode, make_noise
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import choose
from sdvar_exp.runner.measuring.units import PeakMemory


def expected_bytes(pair: Pair, kv_bytes: int, widest: int) -> dict[str, int]:
    """Weights of the pair, the caches, and the largest activation: the MLP's hidden rows and the logits of `widest` rows."""
    models = {id(m): m for m in (pair.target, pair.draft, pair.vae)}.values()
    weights = sum(t.numel() * t.element_size() for m in models for t in [*m.parameters(), *m.buffers()])
    size = torch.empty(0, dtype=pair.target.dtype).element_size()
    return {"weights": weights, "cache": kv_bytes, "activation": widest * 2 * size * max(8 * pair.target.width, 3 * 4096)}


@torch.inference_mode()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shapes", nargs="+", default=["8x512", "16x1024/30x1920"], help="[draft/]target, depth x width")
    args = options.parse_args()
    device = start(args)
    rows: list[list[object]] = []
    data: list[dict[str, Any]] = []
    for shape in args.shapes:
        *draft, target = (tuple(map(int, part.split("x"))) for part in shape.split("/"))
        pair = random_pair(target, draft[0] if draft else None, device)
        unit = [Unit(0, 0)]
        cell = (
            Cell(choose("strategy", "sequential"))
            if not draft
            else Cell(
                choose("strategy", "parallel_v1"),
                mask=choose("mask", "block_causal"),
                acceptance=choose("acceptance", "exact"),
                gamma=choose("gamma", "fixed", value=2),
            )
        )
        noise = make_noise(pair, unit, [cell])
        gc.collect()
        before = resident(device)
        watch = PeakMemory(device)
        start_s = time.perf_counter()
        out = decode(pair, cell, unit, noise=noise, record=False)
        seconds = time.perf_counter() - start_s
        peak = watch.bytes()
        assert peak is not None, "this system does not tell the peak memory of a process"
        widest = max(pair.pyramid.count(p.first, p.stop) for p in out.passes)
        parts = expected_bytes(pair, out.counts.kv_bytes, widest)
        grown = peak - before if device.type == "cpu" else peak - parts["weights"]
        wanted = parts["cache"] + parts["activation"]
        total = (parts["weights"] + grown) / (parts["weights"] + wanted)
        rows.append(
            [
                shape,
                cell.strategy.name,
                *[f"{parts[k] / 2**20:.0f}" for k in ("weights", "cache", "activation")],
                f"{grown / 2**20:.0f}",
                f"{total:.2f}",
                f"{seconds:.1f}",
            ]
        )
        data.append({"shape": shape, **parts, "grown": grown, "ratio": total, "seconds": seconds})
        del pair, out, noise
    text = (
        f"{machine(device)}. One image, guidance on, float32. Grown: peak during the decode minus the memory before it; "
        "ratio: (weights + grown) ÷ (weights + cache + activation).\n\n"
        + table(["pair", "strategy", "weights MiB", "cache", "activation", "grown", "ratio", "seconds"], rows)
        + "\n\n`python -m benchmarks.memory --write`"
    )
    publish("memory", "Memory", text, data, args.write)


def resident(device: torch.device) -> int:
    """Bytes that the process holds now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    main()
