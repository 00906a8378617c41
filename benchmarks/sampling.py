"""Sampling: what perturb-and-argmax costs beside a stage, and noise, top-k and top-p apart.

python -m benchmarks.sampling --write
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.common import interleaved, machine, parser, publish, ratio, start, table
from benchmarks.merged import forward
from benchmarks.models import SIDES, random_var
from sdvar_exp.cell import Sampling, Unit
from sdvar_exp.decoding.noise import Stream, gumbels
from sdvar_exp.decoding.records import Pass
from sdvar_exp.decoding.sampling import gumbel_argmax, process


@torch.inference_mode()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shape", default="16x1024", help="depth x width of the stage that it is compared with")
    args = options.parse_args()
    device = start(args)
    model = random_var(*map(int, args.shape.split("x"))).to(device)
    rows, data = [], []
    for k in (4, 7, 9):
        n = SIDES[k] ** 2
        logits, g = torch.randn(1, n, 4096, device=device) * 3, torch.from_numpy(gumbels(Unit(0, 0), Stream.target, k, n, 4096))
        g = g[None].to(device)
        runs: dict[str, Callable[[], object]] = {
            "stage": forward(model, Pass("target", k, k + 1, 2), 1),
            "perturb": lambda x=logits, y=g: gumbel_argmax(process(x, Sampling()), y),
            "noise": lambda k=k, n=n: gumbels(Unit(0, 0), Stream.target, k, n, 4096),
            "top_k": lambda x=logits: process(x, Sampling(top_k=900)),
            "top_p": lambda x=logits: process(x, Sampling(top_p=0.96)),
            "both": lambda x=logits: process(x, Sampling(top_k=900, top_p=0.96)),
        }
        took = interleaved(runs, args.repeats, device)
        share = ratio(took["perturb"], took["stage"])
        ms = {name: 1e3 * float(np.median(s)) for name, s in took.items()}
        rows.append(
            [
                k,
                n,
                f"{ms['stage']:.1f}",
                f"{ms['perturb']:.2f}",
                f"{share.value:.2%} [{share.low:.2%}, {share.high:.2%}]",
                f"{ms['noise']:.1f}",
                f"{ms['top_k']:.1f}",
                f"{ms['top_p']:.1f}",
                f"{ms['both']:.1f}",
            ]
        )
        data.append({"stage": k, "ms": ms, "perturb_share": vars(share)})
    text = (
        f"{machine(device)}. V = 4096, one image, stage of a {args.shape} transformer with guidance, n = "
        f"{args.repeats} interleaved repeats, medians in ms, share with 95 % t interval. Noise is made once per unit, "
        "outside the clock.\n\n"
        + table(
            [
                "stage",
                "tokens",
                "stage ms",
                "perturb + argmax",
                "share of the stage",
                "noise",
                "top-k 900",
                "top-p 0.96",
                "both",
            ],
            rows,
        )
        + "\n\n`python -m benchmarks.sampling --write`"
    )
    publish("sampling", "Sampling", text, data, args.write)


if __name__ == "__main__":
    main()
