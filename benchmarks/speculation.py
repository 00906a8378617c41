"""Speculation against our own sequential baseline, by the wall clock, with what it costs in fidelity.

    python -m benchmarks.speculation --write

Embedded pair, one image at a time: the baseline (twice: A/A) and every setting in turn, on the same labels and seeds. A
setting is on the front (marked *) if no other one is both faster and nearer to the baseline's image.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import REPOSITORY, interleaved, machine, parser, publish, ratio, start, table
from benchmarks.merged import cells
from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import Clock, decode, decode_images, make_noise
from sdvar_exp.models.classifier import Classifier, load_classifier
from sdvar_exp.models.pair import WEIGHTS, Pair, load_pair
from sdvar_exp.registry import choose

BASE = "sequential"
FIGURE = REPOSITORY / "docs" / "figures" / "speculation.png"


def hybrid(rule: str, gamma: int, until: int, loop: Mapping[str, object] | None = None, **rule_params: object) -> Cell:
    """γ proposals a round for the stages < until, then the draft alone."""
    return Cell(
        choose("strategy", "hybrid", verify_until=until, **(loop or {})),
        mask=choose("mask", "block_causal"),
        acceptance=choose("acceptance", rule, **rule_params),
        gamma=choose("gamma", "fixed", value=gamma),
    )


def candidates() -> dict[str, Cell]:
    """The decodes of `benchmarks.merged`; hybrids that verify more or less, in more or fewer calls; CoDe's order."""
    out = cells()
    for until in (2, 4, 5, 6, 7):
        out[f"hybrid exact γ=2 until={until}"] = hybrid("exact", 2, until)
    out["hybrid exact γ=3 until=4"] = hybrid("exact", 3, 4)
    once = {"on_reject": "continue"}
    for until in (3, 4, 5, 6):
        out[f"hybrid exact continue γ={until} until={until}"] = hybrid("exact", until, until, once)
        skipping = hybrid("exact", until, until, {**once, "skip_last": True})
        out[f"hybrid exact continue skip_last γ={until} until={until}"] = skipping
    for until in (4, 5):
        out[f"hybrid exact continue γ=2 until={until}"] = hybrid("exact", 2, until, once)
        out[f"hybrid match_rate 0.7 repair γ={until} until={until}"] = hybrid("match_rate", until, until, tau=0.7, repair=True)
    out["hybrid exact γ=2 skip_last until=5"] = hybrid("exact", 2, 5, {"skip_last": True})
    out["hybrid exact γ=2 draft_cfg=off until=4"] = hybrid("exact", 2, 4, {"draft_cfg": "off"})
    for stages in (2, 4, 5):
        out[f"collaborative N={stages}"] = Cell(choose("strategy", "collaborative", target_stages=stages))
    return out


def front(found: Sequence[tuple[float, float]]) -> list[bool]:
    """The (speed, distance) pairs that no other one beats in both."""
    return [not any((s >= speed and d < far) or (s > speed and d <= far) for s, d in found) for speed, far in found]


class ProcessorClock(Clock):
    """Sections in processor time, for `--clock cpu`."""

    def _mark(self) -> Any:
        return time.process_time()


def says(classifier: Classifier | None, image_13HW: torch.Tensor) -> int:
    return -1 if classifier is None else int(classifier.out(classifier.features(image_13HW)).argmax())


def measure(
    pair: Pair, chosen: Mapping[str, Cell], units: Sequence[Unit], repeats: int, device: torch.device
) -> dict[str, dict[str, list[Any]]]:
    """Per setting and image: log ratios of time to the baseline, its seconds, fidelity, class, sections, target calls."""
    path = WEIGHTS / "classifier.safetensors"
    classifier = load_classifier(path) if path.is_file() and pair.name == "embedded" else None
    base = Cell(choose("strategy", "sequential"))
    everything = {BASE: base, f"{BASE} (A/A)": base, **chosen}
    kinds = ("log", "s", "mae", "right", "clock", "calls")
    found: dict[str, dict[str, list[Any]]] = {name: {kind: [] for kind in kinds} for name in everything}
    for i, unit in enumerate(units):
        noise = make_noise(pair, [unit], list(everything.values()))
        took = interleaved(
            {n: lambda c=c, b=noise, u=unit: decode(pair, c, [u], noise=b, record=False) for n, c in everything.items()},
            repeats,
            device,
            warmup=int(i == 0),
        )
        image = decode_images(pair, decode(pair, everything[BASE], [unit], noise=noise, record=False).f_hat)
        for name, cell in everything.items():
            clock = (ProcessorClock if os.environ["SDVAR_BENCHMARK_CLOCK"] == "cpu" else Clock)(device)
            out = decode(pair, cell, [unit], noise=noise, clock=clock, record=False)
            own, f = decode_images(pair, out.f_hat), found[name]
            f["log"].append(float(np.log(took[BASE] / took[name]).mean()))
            f["s"].append(float(took[name].mean()))
            f["mae"].append(float((own - image).abs().mean()))
            f["right"].append(says(classifier, own.cpu().float()) == unit.label)
            f["clock"].append(clock.ms())
            f["calls"].append(out.counts.target_calls)
    return found


def draw(points: Sequence[tuple[str, float, float, bool]], path: Path) -> None:
    """Speed-up against pixel difference; the front named."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(9, 5.5), constrained_layout=True)
    for verifying, colour, label in ((True, "#0072B2", "verifies"), (False, "#D55E00", "does not verify")):
        some = [p for p in points if p[0].startswith(("hybrid", "parallel")) == verifying]
        ax.scatter([p[1] for p in some], [p[2] for p in some], color=colour, s=28, label=label, zorder=3)
    for name, speed, far, on in points:
        if on and speed > 1.05:
            ax.annotate(
                name, (speed, far), xytext=(5, -9), textcoords="offset points", fontsize=7, ha="right" if speed > 4 else "left"
            )
    ax.axvline(1, color="0.7", lw=1)
    ax.set(xlabel="speed-up over the sequential baseline", ylabel="pixel difference (mean |a-b| on [0, 1])")
    ax.legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    fig.savefig(path, dpi=150)
    plt.close(fig)


@torch.inference_mode()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("--units", type=int, default=20, help="images, labels in turn")
    options.add_argument("--model", default="embedded")
    options.add_argument("--settings", nargs="+", help="only settings whose name holds one of these words")
    args = options.parse_args()
    device = start(args)
    pair = load_pair(args.model, device)
    units = [Unit(i % pair.num_classes, i // pair.num_classes) for i in range(args.units)]
    chosen = {n: c for n, c in candidates().items() if not args.settings or any(word in n for word in args.settings)}
    found = measure(pair, chosen, units, args.repeats, device)
    rows, data, points = [], [], []
    for name, f in found.items():
        speed = ratio(np.exp(np.array(f["log"])), np.ones(len(units)))
        parts = {s: float(np.mean([c.get(s, 0.0) for c in f["clock"]])) for s in ("draft", "verify", "accept", "fhat")}
        total, far, right = 1e3 * float(np.mean(f["s"])), float(np.mean(f["mae"])), float(np.mean(f["right"]))
        points.append((name, speed.value, far))
        rows.append(
            [
                name,
                speed,
                f"{np.mean(f['calls']):.1f}",
                f"{far:.4f}",
                f"{right:.0%}",
                f"{total:.1f}",
                *[f"{ms:.1f}" for ms in parts.values()],
            ]
        )
        data.append(
            {
                "cell": name,
                "speedup": vars(speed),
                "pixel_mae": f["mae"],
                "class_right": f["right"],
                "ms": total,
                "parts_ms": parts,
                "target_calls": f["calls"],
            }
        )
    best = front([(s, d) for _, s, d in points])
    for row, on in zip(rows, best, strict=True):
        row[0] = f"{row[0]} *" if on and row[0] != BASE else row[0]
    order = sorted(range(len(rows)), key=lambda i: -points[i][1])
    text = (
        f"{machine(device)}. {args.model} pair, guidance 1.5, one image at a time, {args.units} images × {args.repeats} "
        "interleaved repeats (speed-up: exp of the mean log ratio over images, 95 % t interval). Pixel difference: from "
        "the baseline's image of the same label, seed and noise; class: share of images that the shipped classifier gives "
        "their label. Sections in ms, exclusive, from one more decode. *: no other setting is both faster and nearer.\n\n"
        + table(
            ["decode", "speed-up", "target calls", "pixel difference", "class", "ms", "draft", "verify", "accept", "f̂"],
            [rows[i] for i in order],
        )
        + "\n\n![speed-up against pixel difference](figures/speculation.png)\n\n`python -m benchmarks.speculation --write`"
    )
    if args.write:
        draw([(*p, on) for p, on in zip(points, best, strict=True)], FIGURE)
    publish("speculation", "Speculation", text, data, args.write)


if __name__ == "__main__":
    main()
