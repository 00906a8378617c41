"""Counts tokens that lower precision changes: samples of the same prefix and noise, against float32 (and that against float64).

    python -m benchmarks.precision --write
    python -m benchmarks.precision --device cuda --write

Embedded pair's target. Every stage is fed the float32 decode's f̂, so a flip is this stage's own and not one that follows from
another. On CUDA float32 is also run with TF32 products.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.common import machine, parser, publish, start, table
from sdvar_exp.cell import Cell, ModelSpec, Sampling, Unit
from sdvar_exp.decoding import decode, make_noise
from sdvar_exp.decoding.guidance import weights
from sdvar_exp.decoding.noise import Stream
from sdvar_exp.decoding.sampling import gumbel_argmax, process
from sdvar_exp.decoding.session import ModelSession
from sdvar_exp.models.pair import Pair, load_pair
from sdvar_exp.registry import choose

SEQUENTIAL = Cell(choose("strategy", "sequential"))


def forced(pair: Pair, units: Sequence[Unit], f_hats: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Guided logits of every stage, each on the given f̂ of the stages before."""
    labels = torch.tensor([u.label for u in units], device=device)
    wide = [f.to(next(pair.vae.parameters()).dtype) for f in f_hats]
    schedule = weights(SEQUENTIAL.cfg_schedule, pair.pyramid.stages)
    session = ModelSession(pair.target, pair.vae.quantize.next_input, labels, schedule)
    return [session.logits(wide, k + 1, want=k)[0] for k in range(pair.pyramid.stages)]


@torch.inference_mode()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("--units", type=int, default=20)
    args = options.parse_args()
    device = start(args)
    units = [Unit(i % 10, i // 10) for i in range(args.units)]
    base = load_pair("embedded", device)
    noise = make_noise(base, units, [SEQUENTIAL])
    f_hats = base.vae.quantize.f_hats(decode(base, SEQUENTIAL, units, noise=noise, record=False).tokens)
    kinds = ["float32", "float64", "bfloat16", "float16", "autocast bfloat16", "autocast float16"]
    kinds += ["tf32"] if device.type == "cuda" else []
    logits: dict[str, list[torch.Tensor]] = {}
    for kind in kinds:
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        autocast = kind.removeprefix("autocast ") if " " in kind else "none"
        dtype = "float32" if " " in kind or kind == "tf32" else kind
        pair = load_pair(ModelSpec("embedded", autocast=autocast), device, dtype)
        logits[kind] = forced(pair, units, f_hats, device)
    torch.backends.cuda.matmul.allow_tf32 = False

    def tokens(kind: str) -> torch.Tensor:
        processed = [process(x.float(), Sampling()) for x in logits[kind]]
        return torch.cat([gumbel_argmax(x, noise.gumbel(Stream.target, k)) for k, x in enumerate(processed)], dim=1)

    rows, data = [], list[dict[str, Any]]()
    for kind in kinds[1:]:
        flips = tokens(kind) != tokens("float32")
        gap = max(float((a.double() - b.double()).abs().max()) for a, b in zip(logits[kind], logits["float32"], strict=True))
        changed = int(flips.any(dim=1).sum())
        rows.append(
            [
                kind,
                f"{int(flips.sum())} of {flips.numel()}",
                f"{float(flips.double().mean()):.3%}",
                f"{changed} of {len(units)}",
                f"{gap:.2g}",
            ]
        )
        data.append({"dtype": kind, "flips": int(flips.sum()), "tokens": flips.numel(), "images": changed, "gap": gap})
    text = (
        f"{machine(device)}. Embedded target, guidance 1.5, {len(units)} images; every stage on the float32 decode's own "
        "prefix. Difference: the largest of guided logits.\n\n"
        + table(["against float32", "tokens flipped", "rate", "images with a flip", "difference"], rows)
        + f"\n\n`python -m benchmarks.precision {' '.join(sys.argv[1:])}`"
    )
    name = "precision" + ("" if device.type == "cpu" else f"-{device.type}")
    publish(name, f"Precision ({device.type})", text, data, args.write)


if __name__ == "__main__":
    main()
