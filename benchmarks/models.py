"""Pairs of any shape with random weights: enough for time and memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdvar_exp.models.pair import Pair
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.training.var import initialise

SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def random_var(
    depth: int,
    width: int,
    sides: Sequence[int] = SIDES,
    vocab: int = 4096,
    code_width: int = 32,
    classes: int = 1000,
    heads: int | None = None,
    device: torch.device | str = "cpu",
) -> VAR:
    """A transformer of heads of width 64 with weights as at the start of a training, made on `device`."""
    torch.manual_seed(depth)
    with torch.device(device):
        model = VAR(tuple(sides), vocab, code_width, classes, depth, width, heads or width // 64)
        initialise(model)
    return model.eval().requires_grad_(False)


def random_vae(sides: Sequence[int] = SIDES, vocab: int = 4096, code_width: int = 32, ch: int = 32) -> VQVAE:
    """A VQVAE whose quantizer has the official shape; its convolutions are narrow unless `ch` is 160."""
    torch.manual_seed(0)
    vae = VQVAE(tuple(sides), vocab, code_width, ch)
    torch.nn.init.normal_(vae.quantize.embedding.weight)
    return vae.eval().requires_grad_(False)


def random_pair(
    target: tuple[int, int], draft: tuple[int, int] | None = None, device: torch.device | str = "cpu", dtype: str = "float32"
) -> Pair:
    """(depth, width) of target and draft; without a draft the target stands in for it."""
    big = random_var(*target, device=device)
    return Pair(random_vae(), big if draft is None else random_var(*draft, device=device), big, "random", {}).to(device, dtype)
