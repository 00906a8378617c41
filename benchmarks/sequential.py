"""The sequential baseline against the official VAR code and against the machine's own matrix multiplication.

    python -m benchmarks.sequential --official FOLDER --write

FOLDER is a checkout of FoundationVision/VAR, used as it is but for three things, each in its favour: the sampler is replaced
by an argmax over noise made beforehand (so that both sides must give the same tokens, and its multinomial costs nothing),
the VAE decode at the end is left out on both sides, and `huggingface_hub` is stood in for where it is not installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.common import interleaved, machine, parser, publish, ratio, start, table
from benchmarks.models import SIDES, random_pair
from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import decode, make_noise
from sdvar_exp.decoding.noise import NoiseBook, Stream
from sdvar_exp.decoding.records import Decoded
from sdvar_exp.models.accelerate import accelerate
from sdvar_exp.models.fastest import LARGEST
from sdvar_exp.models.pair import Pair
from sdvar_exp.models.products import Prepacked
from sdvar_exp.registry import choose

SHAPES = ((8, 512), (16, 1024))
CHEAPEST = 8 * 512**2  # depth · width² · batch of a row that gets all repeats; dearer ones get fewer, but --least


def load_official(folder: Path) -> Any:
    """The official `models` package."""
    if not (folder / "models" / "var.py").is_file():
        raise SystemExit(f"error: {folder} is not a checkout of FoundationVision/VAR")
    sys.path.insert(0, str(folder))
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        stand_in = ModuleType("huggingface_hub")
        stand_in.PyTorchModelHubMixin = object  # type: ignore[attr-defined]
        sys.modules["huggingface_hub"] = stand_in
    import models.var
    import models.vqvae

    return models


def official_decode(
    official: Any, pair: Pair, depth: int, width: int, noise: NoiseBook, labels: torch.Tensor, seen: list[torch.Tensor]
) -> Callable[[], object]:
    """The official decode of the same weights, labels and noise; tokens of each stage go to `seen`."""
    vae = official.vqvae.VQVAE(vocab_size=4096, z_channels=32, ch=32, test_mode=True, share_quant_resi=4, v_patch_nums=SIDES)
    vae.quantize.load_state_dict(pair.vae.quantize.state_dict(), strict=False)
    vae.to(labels.device)
    with labels.device:
        model = official.var.VAR(
            vae_local=vae,
            num_classes=1000,
            depth=depth,
            embed_dim=width,
            num_heads=width // 64,
            attn_l2_norm=True,
            patch_nums=SIDES,
            flash_if_available=True,
            fused_if_available=True,
        )
    model.load_state_dict(pair.target.state_dict())
    model.eval()
    stage = [0]

    def sample(logits: torch.Tensor, **_: object) -> torch.Tensor:
        tokens = (logits + noise.gumbel(Stream.target, stage[0])).argmax(-1, keepdim=True)
        stage[0] += 1
        seen.append(tokens[..., 0])
        return tokens

    official.var.sample_with_top_k_top_p_ = sample
    vae.fhat_to_img = lambda f_hat: f_hat.clone()  # type: ignore[method-assign]

    def run() -> object:
        stage[0] = 0
        seen.clear()
        return model.autoregressive_infer_cfg(len(labels), labels, g_seed=0, cfg=1.5)

    return run


def multiplications(
    depth: int,
    width: int,
    batch: int,
    dtype: torch.dtype = torch.float32,
    prepacked: bool = False,
    device: torch.device | str = "cpu",
) -> Callable[[], object]:
    """Only the matrix products of a guided decode, in their own shapes: linear layers and attention, stage by stage.

    prepacked: weights in oneDNN's own layout; `RuntimeError` where this machine has none.
    """
    heads, rows = width // 64, 2 * batch
    weights = {
        n: torch.randn(o, i, device=device)
        for n, (i, o) in {
            "qkv": (width, 3 * width),
            "proj": (width, width),
            "fc1": (width, 4 * width),
            "fc2": (4 * width, width),
        }.items()
    }
    most = rows * SIDES[-1] ** 2

    def way(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        own, bias = weight.to(dtype, copy=True), torch.zeros(len(weight), dtype=dtype, device=device)
        if not prepacked:
            return lambda h: F.linear(h, own)
        packed = Prepacked(own, min(most, LARGEST), False)
        return lambda h: packed(h, bias)

    layers = [{n: way(w) for n, w in weights.items()} for _ in range(depth)]  # as much memory traffic as the model's
    head = way(torch.randn(4096, width, device=device))
    random = partial(torch.randn, dtype=dtype, device=device)
    inputs = {k: (random(rows * p * p, width), random(rows * p * p, 4 * width)) for k, p in enumerate(SIDES)}
    seen, attention = 0, {}
    for k, p in enumerate(SIDES):
        seen += p * p
        attention[k] = (
            random(rows * heads, p * p, 64),
            random(rows * heads, 64, seen),
            random(rows * heads, p * p, seen),
            random(rows * heads, seen, 64),
        )

    def run() -> None:
        for k in range(len(SIDES)):
            narrow, wide = inputs[k]
            q, kt, a, v = attention[k]
            for layer in layers:
                layer["qkv"](narrow)
                torch.bmm(q, kt)
                torch.bmm(a, v)
                layer["proj"](narrow)
                layer["fc1"](narrow)
                layer["fc2"](wide)
            head(narrow)

    return run


@torch.inference_mode()
def measure(
    depth: int,
    width: int,
    batch: int,
    official: Any | None,
    repeats: int,
    autocast: str = "none",
    execution: str = "eager",
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """One row: seconds of each and their ratios. The limit is the faster of the two ways to multiply on this machine."""
    pair, kind = random_pair((depth, width), device=device), torch.device(device).type
    units = [Unit(i, 0) for i in range(batch)]
    noise = make_noise(pair, units).prepare([Stream.target])
    cell = Cell(choose("strategy", "sequential"), choose("cfg_schedule", "linear", cfg=1.5))
    own: list[Decoded] = []

    def ours() -> None:
        own[:] = [decode(pair, cell, units, noise=noise, record=False)]

    dtype = torch.float32 if autocast == "none" else getattr(torch, autocast)
    runs: dict[str, Callable[[], object]] = {
        "ours": ours,
        "products": multiplications(depth, width, batch, dtype, device=device),
    }
    if kind == "cpu":
        with suppress(RuntimeError):
            runs["prepacked"] = multiplications(depth, width, batch, dtype, prepacked=True)
    seen: list[torch.Tensor] = []
    if official is not None:
        labels = torch.tensor([u.label for u in units], device=device)
        plain = official_decode(official, pair, depth, width, noise, labels, seen)

        def theirs() -> object:
            with torch.autocast(kind, dtype, enabled=autocast != "none"):
                return plain()

        runs["official"] = theirs
    pair = replace(pair, target=accelerate(pair.target, execution, autocast))  # behind the official copy of the weights
    took = interleaved(runs, repeats, device, warmup=int(kind != "cpu" or depth * width**2 * batch <= 8 * CHEAPEST))
    best = min((name for name in ("products", "prepacked") if name in took), key=lambda name: float(np.median(took[name])))
    out: dict[str, Any] = {
        "autocast": autocast,
        "execution": execution,
        "products": best,
        "depth": depth,
        "width": width,
        "batch": batch,
        "seconds": {k: [float(x) for x in v] for k, v in took.items()},
        "limit": ratio(took[best], took["ours"]),
    }
    if official is not None:
        out["equal"] = float((torch.cat(own[0].tokens, 1) == torch.cat(seen, 1)).double().mean())
        out["speedup"] = ratio(took["official"], took["ours"])
        out["official_limit"] = ratio(took[best], took["official"])
    return out


def main() -> None:
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("--official", type=Path, help="checkout of FoundationVision/VAR; without it that column is empty")
    options.add_argument("--shapes", nargs="+", default=[f"{d}x{w}" for d, w in SHAPES], help="depth x width")
    options.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    options.add_argument("--autocasts", nargs="+", default=["none", "bfloat16"], choices=["none", "bfloat16", "float16"])
    options.add_argument("--execution", default="eager", choices=["eager", "auto", "compile", "graphs"], help="of our side")
    options.add_argument("--least", type=int, default=3, help="repeats of the dearest row")
    args = options.parse_args()
    device = start(args)
    official = load_official(args.official) if args.official else None
    rows, data = [], []
    for shape, autocast in product(args.shapes, args.autocasts):
        depth, width = map(int, shape.split("x"))
        for batch in args.batches:
            dearer = depth * width**2 * batch / CHEAPEST if device.type == "cpu" else 1
            repeats = min(args.repeats, max(args.least, round(args.repeats / dearer)))
            found = measure(depth, width, batch, official, repeats, autocast, args.execution, device)
            mid = {k: sorted(v)[len(v) // 2] for k, v in found["seconds"].items()}
            rows.append(
                [
                    f"{depth}, {width}",
                    "float32" if autocast == "none" else f"autocast {autocast}",
                    batch,
                    f"{mid['official']:.3g}" if official else "–",
                    f"{mid['ours']:.3g}",
                    found.get("speedup", "–"),
                    found["limit"],
                    found.get("official_limit", "–"),
                    f"{found['equal']:.2%}" if official else "–",
                    repeats,
                ]
            )
            data.append({k: (vars(v) if hasattr(v, "low") else v) for k, v in found.items()})
            print(rows[-1], flush=True)
    text = (
        f"{machine(device)}. Ten stages 1 … 16, guidance 1.5, execution={args.execution}, VAE decode apart, random weights; "
        "the official code samples by argmax over the same noise, which is cheaper than its own sampler. Products: time of the "
        "matrix products alone, in the shapes of the decode, by F.linear or with weights in oneDNN's layout, whichever is "
        "faster here. Intervals: 95 %, t, over interleaved repeats.\n\n"
        + table(
            [
                "depth, width",
                "arithmetic",
                "B",
                "official s",
                "ours s",
                "official ÷ ours",
                "products ÷ ours",
                "products ÷ official",
                "equal tokens",
                "n",
            ],
            rows,
        )
        + f"\n\n`python -m benchmarks.sequential {' '.join(sys.argv[1:]).replace(str(args.official), 'FOLDER')}`"
    )
    titles = {"eager": "Sequential baseline", "auto": "Fastest products"}
    title = titles.get(args.execution, f"Sequential baseline, execution={args.execution}")
    name = "sequential" + (f"-{args.execution}" if args.execution != "eager" else "")
    if device.type != "cpu":
        name, title = f"{name}-{device.type}", f"{title} ({device.type})"
    publish(name, title, text, data, args.write)


if __name__ == "__main__":
    main()
