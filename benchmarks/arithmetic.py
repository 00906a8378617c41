"""Times schedules of the embedded pair in float32 and bfloat16, each under two executions, against the target alone in float32.

    python -m benchmarks.arithmetic --threads 1 --repeats 20 --write
    python -m benchmarks.arithmetic --device cuda --repeats 20 --write

Executions: eager and auto on a CPU, eager and CUDA graphs on a GPU. bfloat16: both transformers, weights too; sampling, f̂ and
the VQVAE stay in float32. What such decodes are worth in quality is the matter of docs/STUDY.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks.common import interleaved, machine, parser, publish, ratio, start, table
from sdvar_exp.cell import Cell, ModelSpec, Unit
from sdvar_exp.decoding import decode, decode_images, make_noise
from sdvar_exp.models.pair import load_pair
from sdvar_exp.registry import choose

SCHEDULES = ("T10", "T8 D2", "T7 D2 T1", "T6 D3 T1", "T5 D4 t1")
ALONE = "T10"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    args = options.parse_args()
    device = start(args)
    torch.backends.cuda.matmul.allow_tf32 = False
    ways = list(product(("float32", "bfloat16"), ("eager", "graphs" if device.type == "cuda" else "auto")))
    pairs = {way: load_pair(ModelSpec(execution=way[1]), device, way[0]) for way in ways}
    cells = {name: Cell(choose("strategy", "model_schedule", stages=name)).normalised() for name in SCHEDULES}
    rows, data, images = [], list[dict[str, Any]](), list[str]()
    for batch in args.batches:
        units = [Unit(i % 10, i // 10) for i in range(batch)]
        noise = make_noise(pairs[ways[0]], units, [*cells.values()])
        runs: dict[str, Callable[[], Any]] = {
            f"{name} {' '.join(way)}": partial(decode, pairs[way], cells[name], units, noise=noise, record=False)
            for name in SCHEDULES
            for way in ways
        }
        eager, fast = (f"{ALONE} {' '.join(way)}" for way in ways[:2])
        f_hat = runs[eager]().f_hat
        runs |= {"again": runs[fast], "image": partial(decode_images, pairs[ways[0]], f_hat)}
        took = interleaved(runs, args.repeats, device, warmup=3)
        images.append(f"{1e3 * np.median(took['image']):.1f} ms at B = {batch}")
        for name, (dtype, execution) in product(SCHEDULES, ways):
            own = took[f"{name} {dtype} {execution}"]
            against = [str(ratio(took[base], own)) for base in (eager, fast)]
            rows.append([f"`{name}`", dtype, execution, batch, f"{1e3 * np.median(own):.1f}", *against])
            data.append({"schedule": name, "dtype": dtype, "execution": execution, "batch": batch, "s": own.round(6).tolist()})
        rows.append(
            [f"`{ALONE}` again", *ways[1], batch, f"{1e3 * np.median(took['again']):.1f}", "", ratio(took[fast], took["again"])]
        )
    head = ["schedule", "precision", "execution", "B", "ms", f"float32 {ways[0][1]} ÷ it", f"float32 {ways[1][1]} ÷ it"]
    text = (
        f"{machine(device)}. Embedded pair, guidance 1.5, {args.repeats} interleaved repeats, 95 % t intervals. Speed-up "
        f"over the target alone (`{ALONE}`) in float32 under each execution, without the VQVAE's image decode, which takes "
        f"{', '.join(images)}.\n\n" + table(head, rows) + f"\n\n`python -m benchmarks.arithmetic {' '.join(sys.argv[1:])}`"
    )
    publish(
        "arithmetic" + ("" if device.type == "cpu" else f"-{device.type}"),
        f"Arithmetic ({device.type})",
        text,
        data,
        args.write,
    )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
