"""Measured costs and pass rates of a pair on this machine, as a profile of `gamma=cost_model` (docs/cost-model.md).

    python -m benchmarks.profile --out costs.json
    sdvar-exp run strategy=dynamic_gamma acceptance=exact gamma=cost_model gamma.profile=costs.json

Costs: the fit of `python -m benchmarks.merged` to all single and merged forwards of one image, guidance on. Pass rates: the
share of images in which `exact` takes a drafted stage whole, each stage judged on a committed prefix (γ = 1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine, parser, start
from benchmarks.merged import calibrate, measure_passes
from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import decode, make_noise
from sdvar_exp.decoding.cost import DecodeCost, ModelCost, fit
from sdvar_exp.models.pair import Pair, load_pair
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose

DIGITS = 4  # significant ones, of costs and rates


def pass_rates(pair: Pair, units: Sequence[Unit]) -> list[float]:
    """a_k: share of the images in which the draft's stage k is what the target samples there under the same noise."""
    cell = Cell(
        choose("strategy", "parallel_v1"),
        mask=choose("mask", "block_causal"),
        acceptance=choose("acceptance", "exact"),
        gamma=choose("gamma", "fixed", value=1),
    )
    passed = np.zeros(pair.pyramid.stages)
    for unit in units:
        rounds = decode(pair, cell, [unit], noise=make_noise(pair, [unit], [cell]), record=False).rounds
        for one in rounds:
            passed[one.first] += one.stage_passed[0]
    return [float(rate) for rate in passed / len(units)]


def profile_of(cost: DecodeCost, rates: Sequence[float], pyramid: Pyramid, note: str) -> dict[str, Any]:
    """The profile's four numbers in milliseconds: a call with what goes with it, and a row of one image, both halves.

    Attention is taken at the keys that a row of a whole decode sees on average, so a row has one price.
    """
    keys = sum(n * pyramid.offsets[k + 1] for k, n in enumerate(pyramid.lengths)) / pyramid.total

    def row(model: ModelCost) -> float:
        return 2 * (model.row + model.context * keys)

    out: dict[str, Any] = {"note": note, "stages": pyramid.stages}
    for role, model in cost.models.items():
        out[f"{role}_call"] = _rounded(model.launch + cost.stage.get(role, 0.0))
        out[f"{role}_row"] = _rounded(row(model))
    return {**out, "pass_rate": [_rounded(rate) for rate in rates]}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


@torch.inference_mode()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", default="embedded", help="a pair that ships with the package")
    options.add_argument("--images", type=int, default=100, help="for the pass rates, labels in turn")
    options.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    args = options.parse_args()
    device = start(args)
    pair, models = load_pair(args.model, device), {}
    for role, model in (("target", pair.target), ("draft", pair.draft)):
        found = measure_passes(model, role, [1], args.repeats, merged=True)
        models[role] = fit(pair.pyramid, [(p, b, 1e3 * float(np.median(s))) for (p, b), s in found.items()])
    cost = calibrate(pair, models, max(7, args.repeats))
    rates = pass_rates(pair, [Unit(i % pair.num_classes, i // pair.num_classes) for i in range(args.images)])
    note = (
        f"Measured by python -m benchmarks.profile: {args.model} pair, {args.images} images, guidance linear 1.5, "
        f"milliseconds. {machine(device)}"
    )
    profile = profile_of(cost, rates, pair.pyramid, note)
    args.out.write_text(json.dumps(profile, indent=1, ensure_ascii=False) + "\n")
    print(args.out.read_text(), end="")


if __name__ == "__main__":
    main()
