"""Speculation against our own sequential baseline, by the wall clock, with what it costs in fidelity.

    python -m benchmarks.speculation --write

Embedded pair, one image at a time: every strategy in turn with the baseline, on the same labels and seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.common import interleaved, machine, parser, publish, ratio, start, table
from benchmarks.merged import cells
from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import Clock, decode, decode_images, make_noise
from sdvar_exp.models.pair import load_pair
from sdvar_exp.registry import choose


def candidates() -> dict[str, Cell]:
    """The decodes of `benchmarks.merged`, and hybrids at more depths."""
    out, causal = cells(), choose("mask", "block_causal")
    for until in (2, 4, 6, 7):
        out[f"hybrid exact γ=2 until={until}"] = Cell(
            choose("strategy", "hybrid", verify_until=until), mask=causal, acceptance=choose("acceptance", "exact"),
            gamma=choose("gamma", "fixed", value=2))
    return out


@torch.inference_mode()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("--units", type=int, default=10, help="images, one per label")
    options.add_argument("--model", default="embedded")
    args = options.parse_args()
    device = start(args)
    pair, base = load_pair(args.model, device), Cell(choose("strategy", "sequential"))
    chosen = candidates()
    units = [Unit(i % pair.num_classes, i // pair.num_classes) for i in range(args.units)]
    found: dict[str, dict[str, list[Any]]] = {name: {"base": [], "cell": [], "mae": [], "clock": []} for name in chosen}
    for unit in units:
        noise = make_noise(pair, [unit], [base, *chosen.values()])
        image = decode_images(pair, decode(pair, base, [unit], noise=noise, record=False).f_hat)
        for name, cell in chosen.items():
            took = interleaved({"base": lambda n=noise, u=unit: decode(pair, base, [u], noise=n, record=False),
                                "cell": lambda n=noise, u=unit, c=cell: decode(pair, c, [u], noise=n, record=False)},
                               args.repeats, device)
            for side in ("base", "cell"):
                found[name][side].append(np.exp(np.log(took[side]).mean()))
            clock = Clock(device)
            out = decode(pair, cell, [unit], noise=noise, clock=clock, record=False)
            found[name]["clock"].append(clock.ms())
            found[name]["mae"].append(float((decode_images(pair, out.f_hat) - image).abs().mean()))
    rows, data = [], []
    for name, f in found.items():
        speed = ratio(np.array(f["base"]), np.array(f["cell"]))
        total = 1e3 * float(np.mean(f["cell"]))
        parts = {s: float(np.mean([c.get(s, 0.0) for c in f["clock"]])) for s in ("draft", "verify", "accept", "fhat")}
        rest = max(0.0, total - sum(parts.values()))
        rows.append((speed.value, [name, speed, f"{np.mean(f['mae']):.4f}", f"{total:.1f}",
                                   *[f"{ms:.1f}" for ms in parts.values()], f"{rest:.1f}"]))
        data.append({"cell": name, "speedup": vars(speed), "pixel_mae": f["mae"], "ms": total, "parts_ms": parts})
    ordered = [row for _, row in sorted(rows, key=lambda r: -r[0])]
    text = (f"{machine(device)}. {args.model} pair, guidance 1.5, one image at a time, {args.units} images × {args.repeats} "
            "interleaved repeats (speed-up: exp of the mean log ratio over images, 95 % t interval). Sections in ms are "
            "exclusive; other: Python, caches, modulations.\n\n"
            + table(["decode", "speed-up", "pixel difference", "ms", "draft", "verify", "accept", "f̂", "other"], ordered)
            + "\n\n`python -m benchmarks.speculation --write`")
    publish("speculation", "Speculation", text, data, args.write)


if __name__ == "__main__":
    main()
