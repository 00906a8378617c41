"""Merged verification: T(stages n … n+γ-1 in one forward) ÷ Σ T(k), the cost model fitted from it, and what it predicts.

    python -m benchmarks.merged --write
    python -m benchmarks.merged --device cuda --shape 30x1920 --draft 16x1024 --dtype bfloat16 --write

Without --shape the embedded pair is measured. The second table compares the speed-ups that the fitted model predicts for
whole decodes, from nothing but their forwards, with measured ones. The third derives pairs of the official sizes on GPUs
from data-sheet numbers; its assumptions are in `sdvar_exp/decoding/cost.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks.common import interleaved, machine, parser, publish, ratio, start, table
from benchmarks.models import SIDES, random_pair
from sdvar_exp.cell import Cell, Sampling, Unit
from sdvar_exp.decoding import decode, make_noise
from sdvar_exp.decoding.cost import HARDWARE, DecodeCost, ModelCost, fit, roofline_decode_ms
from sdvar_exp.decoding.masks import materialise
from sdvar_exp.decoding.noise import Stream
from sdvar_exp.decoding.records import Pass
from sdvar_exp.decoding.sampling import gumbel_argmax, process
from sdvar_exp.models.pair import Pair, load_pair
from sdvar_exp.models.var import VAR
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose


def forward(model: VAR, one: Pass, batch: int) -> Callable[[], object]:
    """One forward of the given shape on a cache that holds the stages before it."""
    pyramid, n = model.pyramid, batch * one.halves
    cache = model.new_cache(n)
    cache.kv.normal_()
    cache.advance(pyramid.offsets[one.first])
    condition = model.condition(torch.zeros(n, dtype=torch.int64, device=model.device))
    x = torch.randn(n, pyramid.count(one.first, one.stop), model.width, device=model.device, dtype=model.dtype)
    mask = None
    if one.stop - one.first > 1:
        mask = torch.tensor(materialise(choose("mask", "block_causal"), pyramid, one.first, one.stop), device=model.device)
    return lambda: model(x, condition, cache, mask)


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


def overheads(pair: Pair, repeats: int) -> tuple[dict[str, float], float]:
    """Milliseconds that are not forwards: per decode and model (modulations, cache), and per stage (sampling, f̂, inputs)."""
    quantize, sampling, pyramid = pair.vae.quantize, Sampling(), pair.pyramid
    labels = torch.tensor([0, pair.num_classes], device=pair.target.device)
    noise = make_noise(pair, [Unit(0, 0)], [Cell(choose("strategy", "sequential"))])
    f_hat = quantize.empty(1)
    logits = [torch.randn(2, n, pair.target.vocab_size, device=pair.target.device) for n in pyramid.lengths]

    def stage_work() -> None:
        for k, both in enumerate(logits):
            if k:
                quantize.next_input(k, f_hat)
            cond, null = both.split(1)
            guided = (1 + torch.ones_like(cond[..., :1])) * cond - null
            tokens = gumbel_argmax(process(guided, sampling), noise.gumbel(Stream.target, k))
            quantize.accumulate(k, tokens, f_hat)

    runs: dict[str, Callable[[], object]] = {"stages": stage_work}
    for role, model in (("target", pair.target), ("draft", pair.draft)):
        runs[role] = lambda m=model: (m.condition(labels), m.new_cache(2))
    took = {name: 1e3 * float(np.median(s)) for name, s in interleaved(runs, repeats, pair.target.device).items()}
    return {role: took[role] for role in ("target", "draft")}, took["stages"] / pyramid.stages


def cells() -> dict[str, Cell]:
    """Decodes of different make-up, to predict."""
    causal, out = choose("mask", "block_causal"), {}
    for gamma in (2, 3, 5):
        fixed = choose("gamma", "fixed", value=gamma)
        for rule in ("exact", "always", "never"):
            out[f"parallel_v1 {rule} γ={gamma}"] = Cell(
                choose("strategy", "parallel_v1"), mask=causal, acceptance=choose("acceptance", rule), gamma=fixed)
    fixed = choose("gamma", "fixed", value=2)
    for until in (3, 5):
        out[f"hybrid exact γ=2 until={until}"] = Cell(
            choose("strategy", "hybrid", verify_until=until), mask=causal, acceptance=choose("acceptance", "exact"),
            gamma=fixed)
    for entry in (3, 6):
        out[f"test3 entry={entry}"] = Cell(choose("strategy", "test3", entry_num=entry), mask=causal)
        out[f"collaborative N={entry}"] = Cell(choose("strategy", "collaborative", target_stages=entry))
    out["draft_only"] = Cell(choose("strategy", "draft_only"))
    return out


def predictions(pair: Pair, cost: DecodeCost, repeats: int) -> list[dict[str, Any]]:
    """Predicted and measured speed-up of whole decodes, one image."""
    units, base = [Unit(0, 0)], Cell(choose("strategy", "sequential"))
    noise = make_noise(pair, units, [base, *cells().values()])
    out = []
    alone = cost.ms(pair.pyramid, decode(pair, base, units, noise=noise, record=False).passes)
    for name, cell in cells().items():
        passes = decode(pair, cell, units, noise=noise, record=False).passes
        runs = {"base": lambda: decode(pair, base, units, noise=noise, record=False),
                "cell": lambda c=cell: decode(pair, c, units, noise=noise, record=False)}
        took = interleaved(runs, repeats, pair.target.device)
        measured = ratio(took["base"], took["cell"])
        out.append({"cell": name, "predicted": alone / cost.ms(pair.pyramid, passes), "measured": vars(measured)})
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


@torch.inference_mode()
def main() -> None:
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("--shape", help="depth x width of a target with random weights; default: the embedded pair")
    options.add_argument("--draft", help="depth x width of its draft")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    args = options.parse_args()
    device = start(args)
    if args.shape:
        target, draft = (tuple(map(int, (s or args.shape).split("x"))) for s in (args.shape, args.draft))
        pair, what = random_pair(target, draft, device, args.dtype), f"target {args.shape}, draft {args.draft or args.shape}"
    else:
        pair, what = load_pair("embedded", device, args.dtype), "embedded pair"
    stages = pair.pyramid.stages
    target_ms = measure_passes(pair.target, "target", args.batches, args.repeats, merged=True)
    draft_ms = measure_passes(pair.draft, "draft", args.batches, args.repeats, merged=True)

    def fitted(found: dict[tuple[Pass, int], np.ndarray]) -> tuple[ModelCost, float]:
        points = [(p, b, 1e3 * float(np.median(s))) for (p, b), s in found.items()]
        cost = fit(pair.pyramid, points)
        return cost, float(np.median([abs(cost.ms(pair.pyramid, p, b) / ms - 1) for p, b, ms in points]))

    (target_cost, target_error), (draft_cost, draft_error) = fitted(target_ms), fitted(draft_ms)
    once, stage = overheads(pair, args.repeats)
    cost = DecodeCost({"target": target_cost, "draft": draft_cost}, stage, once)
    parts: list[str] = []
    data: dict[str, Any] = {"merged": [], "fit": {"target": vars(target_cost), "draft": vars(draft_cost),
                                            "stage_ms": stage, "once_ms": once}}
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
        parts.append(f"B = {batch}: T(merged) ÷ Σ T(single), first stage down, γ across:\n\n"
                     + table(["n", *[f"γ={g}" for g in range(2, stages + 1)]], grid))
    predicted = predictions(pair, cost, args.repeats)
    data["predicted"] = predicted
    rows = [[p["cell"], f"{p['predicted']:.2f}", f"{p['measured']['value']:.2f} [{p['measured']['low']:.2f}, "
             f"{p['measured']['high']:.2f}]", f"{p['predicted'] / p['measured']['value'] - 1:+.0%}"] for p in predicted]
    text = (f"{machine(device)}. {what}, guidance on, {args.dtype}, n = {args.repeats} interleaved repeats (medians in the "
            "fit, 95 % t intervals in the data file).\n\n" + "\n\n".join(parts)
            + f"\n\nFit (ms): target {target_cost.launch:.3g} + {target_cost.row:.3g}·rows + {target_cost.context:.3g}"
            f"·rows·keys, median error {target_error:.0%}; draft {draft_cost.launch:.3g} + {draft_cost.row:.3g}·rows + "
            f"{draft_cost.context:.3g}·rows·keys, {draft_error:.0%}; {stage:.3g} per stage for sampling and f̂, "
            f"{once['target']:.3g} and {once['draft']:.3g} per decode for modulations and caches.\n\n"
            + table(["decode, one image", "predicted speed-up", "measured", "error"], rows)
            + "\n\nRoofline, official sizes, bfloat16, one image, derived and not measured: all stages drafted and verified in "
            "groups of γ that all pass; last column: stages < 5 verified in one call, then the draft.\n\n"
            + table(["device", "pair", "target alone ms", "γ=2", "γ=5", "hybrid"], official_sizes(Pyramid(SIDES)))
            + "\n\n`python -m benchmarks.merged --write`")
    publish("merged" + (f"-{args.shape}-{device.type}" if args.shape else ""), f"Merged verification: {what}", text, data,
            args.write)


if __name__ == "__main__":
    main()
