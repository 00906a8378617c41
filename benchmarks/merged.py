"""Merged verification: T(stages n … n+γ-1 in one forward) ÷ Σ T(k), the cost model fitted from it, and what it predicts.

    python -m benchmarks.merged --write
    python -m benchmarks.merged --device cuda --shape 30x1920 --draft 16x1024 --dtype bfloat16 --batches 1 \
        --execution graphs --write

Without --shape the embedded pair is measured. The second table compares the speed-ups that the fitted model predicts for
whole decodes, from nothing but their forwards, with measured ones. The third derives pairs of the official sizes on GPUs
from data-sheet numbers; its assumptions are in `sdvar_exp/decoding/cost.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import PAGE, interleaved, machine, parser, publish, ratio, start, table
from benchmarks.models import SIDES, random_pair
from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import decode, make_noise
from sdvar_exp.decoding.cost import HARDWARE, DecodeCost, ModelCost, fit, parameters, roofline_decode_ms
from sdvar_exp.decoding.masks import materialise, spans
from sdvar_exp.decoding.noise import NoiseBook
from sdvar_exp.decoding.records import Decoded, Pass
from sdvar_exp.models.accelerate import accelerate
from sdvar_exp.models.pair import Pair, load_pair
from sdvar_exp.models.var import VAR
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose

ROOFLINE = (
    "\n\nRoofline, official sizes, bfloat16, one image, derived and not measured: all stages drafted and verified in "
    "groups of γ that all pass; last column: stages < 5 verified in one call, then the draft.\n\n"
)
ROOFLINE_HEAD = ["device", "pair", "target alone ms", "γ=2", "γ=5", "hybrid"]
SCHEDULES = ("T5 D4 t1", "T6 D3 t1", "T6 D3 T1", "T7 D2 T1", "T7 o3")
VERIFIED = (("V5 D4 T1", 2), ("V3 D7", 3), ("V3 T7", 3))
REJECTION = "parallel_v1 stage_rejection γ=2"


def forward(model: VAR, one: Pass, batch: int) -> Callable[[], object]:
    """One forward of the given shape on a cache that holds the stages before it."""
    pyramid, n = model.pyramid, batch * one.halves
    cache = model.new_cache(n)
    cache.kv.normal_()
    cache.advance(pyramid.offsets[one.first])
    condition = model.condition(torch.zeros(n, dtype=torch.int64, device=model.device))
    x = torch.randn(n, pyramid.count(one.first, one.stop), model.width, device=model.device, dtype=model.dtype)
    mask = runs = None
    if one.stop - one.first > 1:
        matrix = materialise(choose("mask", "block_causal"), pyramid, one.first, one.stop)
        mask, runs = torch.tensor(matrix, device=model.device), spans(matrix, pyramid.stages)
    return lambda: model(x, condition, cache, mask, spans=runs)


def measure_passes(model: VAR, role: str, batches: list[int], repeats: int, merged: bool) -> dict[tuple[Pass, int], np.ndarray]:
    """Seconds of every single-stage forward, and of every merged one, interleaved."""
    stages = model.pyramid.stages
    spans = [(n, n + g) for n in range(stages) for g in range(1, stages - n + 1) if merged or g == 1]
    out: dict[tuple[Pass, int], np.ndarray] = {}
    for batch in batches:
        passes = [Pass(role, a, b, 2) for a, b in spans]
        took = interleaved({str(i): forward(model, p, batch) for i, p in enumerate(passes)}, repeats, model.device)
        out |= {(p, batch): took[str(i)] for i, p in enumerate(passes)}
    return out


def calibrate(pair: Pair, models: dict[str, ModelCost], repeats: int) -> DecodeCost:
    """The fitted forwards, and what two whole decodes, of target and draft alone, take beside theirs.

    Modulations and cache are timed apart; the rest (input rows, sampling, f̂, Python) is spread over the stages.
    """
    pyramid, unit = pair.pyramid, [Unit(0, 0)]
    alone = {"target": Cell(choose("strategy", "sequential")), "draft": Cell(choose("strategy", "draft_only"))}
    noise = make_noise(pair, unit, list(alone.values()))
    labels = torch.tensor([0, pair.num_classes], device=pair.target.device)
    runs: dict[str, Callable[[], object]] = {}
    for role, model in (("target", pair.target), ("draft", pair.draft)):
        runs[f"{role} once"] = lambda m=model: (m.condition(labels), m.new_cache(2))
        runs[role] = lambda c=alone[role]: decode(pair, c, unit, noise=noise, record=False)
    took = {name: 1e3 * float(np.median(s)) for name, s in interleaved(runs, repeats, pair.target.device).items()}
    once = {role: took[f"{role} once"] for role in alone}
    stage = {}
    for role, cost in models.items():
        forwards = sum(cost.ms(pyramid, Pass(role, k, k + 1, 2), 1) for k in range(pyramid.stages))
        stage[role] = max(0.0, took[role] - once[role] - forwards) / pyramid.stages
    return DecodeCost(models, stage, once)


def cells() -> dict[str, Cell]:
    """Decodes of different make-up, to predict."""
    causal, out = choose("mask", "block_causal"), {}
    for gamma in (2, 3, 5):
        fixed = choose("gamma", "fixed", value=gamma)
        for rule in ("exact", "always", "never"):
            out[f"parallel_v1 {rule} γ={gamma}"] = Cell(
                choose("strategy", "parallel_v1"), mask=causal, acceptance=choose("acceptance", rule), gamma=fixed
            )
    fixed = choose("gamma", "fixed", value=2)
    for until in (3, 5):
        out[f"hybrid exact γ=2 until={until}"] = Cell(
            choose("strategy", "hybrid", verify_until=until), mask=causal, acceptance=choose("acceptance", "exact"), gamma=fixed
        )
    for entry in (3, 6):
        out[f"test3 entry={entry}"] = Cell(choose("strategy", "test3", entry_num=entry), mask=causal)
        out[f"collaborative N={entry}"] = Cell(choose("strategy", "collaborative", target_stages=entry))
    out["draft_only"] = Cell(choose("strategy", "draft_only"))
    for stages in SCHEDULES:
        out[f"model_schedule {stages}"] = Cell(choose("strategy", "model_schedule", stages=stages))
    loop: dict[str, Any] = {"mask": causal, "gamma": fixed}
    for stages, gamma in VERIFIED:
        strategy, own = choose("strategy", "model_schedule", stages=stages), {"gamma": choose("gamma", "fixed", value=gamma)}
        out[f"model_schedule {stages} exact γ={gamma}"] = Cell(
            strategy, acceptance=choose("acceptance", "exact"), **{**loop, **own}
        )
    plain = choose("strategy", "parallel_v1")
    out[REJECTION] = Cell(plain, acceptance=choose("acceptance", "stage_rejection"), **loop)
    early = choose("proposer", "target_at_depth", depth=1)
    out["parallel_v1 exact γ=2, first block proposes"] = Cell(
        plain, acceptance=choose("acceptance", "exact"), proposer=early, **loop
    )
    return out


def tries(pair: Pair, cell: Cell, units: Sequence[Unit], noise: NoiseBook) -> dict[int, float]:
    """Attempts at the residual of each stage; none but for `stage_rejection`."""
    return {s.stage: float(sum(s.tries)) for s in decode(pair, cell, units, noise=noise).stages if s.tries}


def predictions(pair: Pair, cost: DecodeCost, repeats: int) -> list[dict[str, Any]]:
    """Predicted and measured speed-up of whole decodes, one image. What an attempt at a residual takes is read off γ = 1."""
    units, base, found = [Unit(0, 0)], Cell(choose("strategy", "sequential")), cells()
    if not isinstance(pair.target, VAR):  # recorded programs have no first blocks
        found = {name: cell for name, cell in found.items() if cell.proposer is None}
    rejecting = replace(found[REJECTION], gamma=choose("gamma", "fixed", value=1))
    exact = replace(rejecting, acceptance=choose("acceptance", "exact"))
    noise = make_noise(pair, units, [base, *found.values()])
    pyramid, target, out = pair.pyramid, pair.target, []

    def run(cell: Cell) -> Callable[[], Decoded]:
        return lambda: decode(pair, cell, units, noise=noise, record=False)

    head = target.vocab_size * target.width / parameters(target.depth, target.width, target.vocab_size)
    cost = cost.with_proposer(1 / target.depth, head)
    took = interleaved({"exact": run(exact), "rejecting": run(rejecting)}, max(7, repeats), target.device)
    less = cost.ms(pyramid, run(exact)().passes) - cost.ms(pyramid, run(rejecting)().passes)
    apart = 1e3 * float(np.median(took["rejecting"]) - np.median(took["exact"])) + less
    attempts = sum(n * pyramid.lengths[k] for k, n in tries(pair, rejecting, units, noise).items())
    cost = replace(cost, attempt=max(0.0, apart / max(1.0, attempts)))
    alone = cost.ms(pyramid, run(base)().passes)
    for name, cell in found.items():
        took = interleaved({"base": run(base), "cell": run(cell)}, repeats, target.device)
        ms = cost.ms(pyramid, run(cell)().passes, tries=tries(pair, cell, units, noise))
        out.append({"cell": name, "predicted": alone / ms, "measured": vars(ratio(took["base"], took["cell"]))})
    return out


def official_sizes(pyramid: Pyramid) -> list[list[object]]:
    """Speed-up that the roofline gives for `exact`-style rounds that commit γ, or 1, of γ stages; one image."""
    rows: list[list[object]] = []
    sequential = [Pass("target", k, k + 1, 2) for k in range(pyramid.stages)]
    for hardware, (draft, target) in product(HARDWARE.values(), ((16, 30), (20, 30), (24, 30))):
        depths = {"target": target, "draft": draft}
        base = roofline_decode_ms(hardware, depths, pyramid, sequential)
        row: list[object] = [hardware.name, f"d{draft}/d{target}", f"{base:.1f}"]
        for gamma in (2, 5):
            drafts = [Pass("draft", k, k + 1, 2) for k in range(pyramid.stages)]
            best = [Pass("target", k, min(k + gamma, pyramid.stages), 2) for k in range(0, pyramid.stages, gamma)]
            row.append(f"{base / roofline_decode_ms(hardware, depths, pyramid, [*drafts, *best]):.2f}")
        tail = [Pass("target", 0, 5, 2)] + [Pass("draft", k, k + 1, 2) for k in range(pyramid.stages)]
        row.append(f"{base / roofline_decode_ms(hardware, depths, pyramid, tail):.2f}")
        rows.append(row)
    return rows


def draw(cells_: list[dict[str, Any]], batches: list[int], stages: int, path: Path) -> None:
    """T(merged) ÷ Σ T(single) over first stage and γ, one panel per batch; below 1 merging saves time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(1, len(batches), figsize=(5.2 * len(batches), 4.4), constrained_layout=True, squeeze=False)
    for ax, batch in zip(axes[0], batches, strict=True):
        grid = np.full((stages, stages + 1), np.nan)
        for c in cells_:
            if c["batch"] == batch:
                grid[c["first"], c["gamma"]] = c["value"]
                ax.text(c["gamma"], c["first"], f"{c['value']:.2f}", ha="center", va="center", fontsize=6.5)
        seen = ax.imshow(grid, cmap="RdBu_r", vmin=0.4, vmax=1.6, aspect="auto")
        ax.set(title=f"B = {batch}", xlabel="stages merged (γ)", ylabel="first stage", xlim=(1.5, stages + 0.5))
        ax.set_yticks(range(stages - 1))
    fig.colorbar(seen, ax=axes[0].tolist(), label="T(merged) ÷ Σ T(single)")
    path.parent.mkdir(exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


@torch.inference_mode()
def main() -> None:
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("--shape", help="depth x width of a target with random weights; default: the embedded pair")
    options.add_argument("--draft", help="depth x width of its draft")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--execution", default="eager", choices=["eager", "auto", "graphs"])
    options.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    args = options.parse_args()
    device = start(args)
    if args.shape:
        target, draft = (tuple(map(int, (s or args.shape).split("x"))) for s in (args.shape, args.draft))
        pair, what = random_pair(target, draft, device, args.dtype), f"target {args.shape}, draft {args.draft or args.shape}"
    else:
        pair, what = load_pair("embedded", device, args.dtype), "embedded pair"
    pair = replace(pair, **{role: accelerate(getattr(pair, role), args.execution) for role in ("target", "draft")})
    stages = pair.pyramid.stages
    target_ms = measure_passes(pair.target, "target", args.batches, args.repeats, merged=True)
    draft_ms = measure_passes(pair.draft, "draft", args.batches, args.repeats, merged=True)

    def fitted(found: dict[tuple[Pass, int], np.ndarray]) -> tuple[ModelCost, float]:
        points = [(p, b, 1e3 * float(np.median(s))) for (p, b), s in found.items()]
        cost = fit(pair.pyramid, points)
        return cost, float(np.median([abs(cost.ms(pair.pyramid, p, b) / ms - 1) for p, b, ms in points]))

    (target_cost, target_error), (draft_cost, draft_error) = fitted(target_ms), fitted(draft_ms)
    cost = calibrate(pair, {"target": target_cost, "draft": draft_cost}, max(7, args.repeats))
    parts: list[str] = []
    data: dict[str, Any] = {
        "merged": [],
        "fit": {
            "target": vars(target_cost),
            "draft": vars(draft_cost),
            "stage_ms": dict(cost.stage),
            "once_ms": dict(cost.once),
        },
    }
    for batch in args.batches:
        grid = []
        for n in range(stages):
            row: list[object] = [n]
            for g in range(2, stages + 1):
                if n + g > stages:
                    row.append("")
                    continue
                apart = sum(target_ms[Pass("target", k, k + 1, 2), batch] for k in range(n, n + g))
                found = ratio(target_ms[Pass("target", n, n + g, 2), batch], np.asarray(apart))
                row.append(f"{found.value:.2f}")
                data["merged"].append({"batch": batch, "first": n, "gamma": g, **vars(found)})
            grid.append(row)
        parts.append(
            f"B = {batch}: T(merged) ÷ Σ T(single), first stage down, γ across:\n\n"
            + table(["n", *[f"γ={g}" for g in range(2, stages + 1)]], grid)
        )
    predicted = predictions(pair, cost, args.repeats)
    data["predicted"] = predicted
    rows = [
        [
            p["cell"],
            f"{p['predicted']:.2f}",
            f"{p['measured']['value']:.2f} [{p['measured']['low']:.2f}, {p['measured']['high']:.2f}]",
            f"{p['predicted'] / p['measured']['value'] - 1:+.0%}",
        ]
        for p in predicted
    ]
    text = (
        f"{machine(device)}. {what}, guidance on, {args.dtype}, execution={args.execution}, n = {args.repeats} interleaved "
        "repeats (medians in the fit, 95 % t intervals in the data file).\n\n"
        + "\n\n".join(parts)
        + "\n\nFit (ms), the formula of `sdvar_exp/decoding/cost.py`:\n\n"
        + table(
            ["model", "launch", "row", "row·key", "further stage", "median error", "per stage", "per decode"],
            [
                [
                    role,
                    *[f"{v:.3g}" for v in vars(cost.models[role]).values()],
                    f"{error:.0%}",
                    f"{cost.stage[role]:.3g}",
                    f"{cost.once[role]:.3g}",
                ]
                for role, error in (("target", target_error), ("draft", draft_error))
            ],
        )
        + "\n\nPer stage: what the decodes of one model alone (sequential, draft_only) take beside forwards and "
        "modulations; the other decodes are predicted from nothing but their forwards.\n\n"
        + table(["decode, one image", "predicted speed-up", "measured", "error"], rows)
        + ("" if args.shape else ROOFLINE + table(ROOFLINE_HEAD, official_sizes(Pyramid(SIDES))))
        + f"\n\n`python -m benchmarks.merged {' '.join(sys.argv[1:])}`"
    )
    name = "merged" + (f"-{args.shape}" if args.shape else "")
    name += f"-{device.type}" if args.shape or device.type != "cpu" else ""
    name += f"-{args.execution}" if args.execution != "eager" else ""
    if args.write:
        draw(data["merged"], args.batches, stages, PAGE.with_name("figures") / f"{name}.png")
    publish(
        name,
        f"Merged verification: {what}" + (f" ({device.type}, {args.execution})" if device.type != "cpu" else ""),
        f"{text}\n\n![merged against single forwards](figures/{name}.png)",
        data,
        args.write,
    )


if __name__ == "__main__":
    main()
