"""Training of the embedded VQVAE: reconstruction, commitment, and revival of dead codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from sdvar_exp.models.quant import MultiScaleQuantizer
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.training import loop
from sdvar_exp.training.data import load_split, prepare


@dataclass(frozen=True)
class VQVAESettings:
    """Shape and training of the VQVAE. init: safetensors file of a trained one to use as it is, as the shipped one."""

    patch_nums: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    vocab_size: int = 256
    z_channels: int = 16
    ch: int = 32
    ch_mult: tuple[int, ...] = (1, 1, 2)
    steps: int = 3000
    batch: int = 64
    peak: float = 1e-3
    warmup: int = 100
    beta: float = 0.25
    l1: float = 0.2
    revive_every: int = 20
    max_minutes: float = 20.0
    bf16: bool = False
    init: str = ""


def build(s: VQVAESettings) -> VQVAE:
    model = VQVAE(s.patch_nums, s.vocab_size, s.z_channels, s.ch, s.ch_mult)
    torch.nn.init.normal_(model.quantize.embedding.weight, std=0.5)
    return model


class CodeUsage:
    """Counts which codes are used and replaces those that are not by residuals of the current batch."""

    def __init__(self, vocab_size: int) -> None:
        self.hits = torch.ones(vocab_size)

    @torch.no_grad()
    def update(self, quantizer: MultiScaleQuantizer, tokens: list[torch.Tensor]) -> None:
        count = torch.bincount(torch.cat(tokens, 1).flatten(), minlength=len(self.hits)).float().cpu()
        self.hits = 0.95 * self.hits + 0.05 * count

    @torch.no_grad()
    def revive(self, quantizer: MultiScaleQuantizer, pool_Nc: torch.Tensor, generator: torch.Generator) -> int:
        dead = (self.hits < 0.02 * self.hits.mean()).nonzero().flatten()
        if len(dead):
            pick = torch.randint(len(pool_Nc), (len(dead),), generator=generator)
            quantizer.embedding.weight[dead] = pool_Nc[pick.to(pool_Nc.device)]
            self.hits[dead] = self.hits.mean()
        return len(dead)


def quantize_with_loss(
    quantizer: MultiScaleQuantizer, f_Bchw: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Straight-through f̂, the VQ loss (mean over stages), the tokens, and residual vectors for revival."""
    target = f_Bchw.detach()
    rest, f_hat, loss = target, torch.zeros_like(target), f_Bchw.new_zeros(())
    tokens, pool = [], []
    S = quantizer.pyramid.stages
    for k, p in enumerate(quantizer.pyramid.patch_nums):
        z = rest if k == S - 1 else F.interpolate(rest, size=(p, p), mode="area")
        z = z.permute(0, 2, 3, 1).reshape(-1, quantizer.width)
        with torch.no_grad():
            idx = quantizer.nearest(z).view(len(target), -1)
        h = quantizer.contribution(k, quantizer.code_map(k, idx))
        f_hat, rest = f_hat + h, rest - h.detach()
        loss = loss + beta * F.mse_loss(f_hat.detach(), f_Bchw) + F.mse_loss(f_hat, target)
        tokens.append(idx)
        pool.append(z[:: max(1, len(z) // 64)])
    return f_Bchw + (f_hat - f_Bchw).detach(), loss / S, tokens, torch.cat(pool)


def reconstruction(model: VQVAE, images: torch.Tensor, side: int, batch: int = 250) -> dict[str, float]:
    """Mean squared and absolute error on [-1, 1] and the share of codes used, over `images` (bytes)."""
    mse = mae = 0.0
    used = torch.zeros(model.quantize.vocab_size, dtype=torch.bool)
    with torch.no_grad():
        for part in images.split(batch):
            x = prepare(part, side).to(model.device)
            tokens, f_hats = model.quantize.encode(model.features(x))
            y = model.decode(f_hats[-1])
            mse += F.mse_loss(y, x).item() * len(part) / len(images)
            mae += F.l1_loss(y, x).item() * len(part) / len(images)
            used[torch.cat(tokens, 1).flatten().unique().cpu()] = True
    return {"mse": mse, "mae": mae, "codes_used": used.float().mean().item()}


def train_vqvae(settings: VQVAESettings, data_folder: Path, out: Path, device: torch.device | str = "cpu") -> dict[str, float]:
    """Train (or continue) and leave `vqvae.ckpt` and `vqvae.log.jsonl` in `out`."""
    torch.manual_seed(0)
    images, _ = load_split(data_folder, "train")
    test, _ = load_split(data_folder, "t10k")
    model = build(settings).to(device)
    side = settings.patch_nums[-1] * model.downsample
    optimizer = torch.optim.AdamW(loop.grouped_parameters(model, 0.01), lr=settings.peak, betas=(0.9, 0.95), fused=True)
    usage = CodeUsage(settings.vocab_size)

    def step(i: int, generator: torch.Generator) -> dict[str, torch.Tensor | float]:
        pick = torch.randint(len(images), (settings.batch,), generator=generator)
        x = prepare(images[pick], side)
        flip = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(flip[:, None, None, None], x.flip(3), x).to(device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.bf16):
            f = model.features(x)
        f_hat, vq, tokens, pool = quantize_with_loss(model.quantize, f.float(), settings.beta)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.bf16):
            y = model.decoder(model.post_quant_conv(f_hat))
        y = y.float()
        mse, l1 = F.mse_loss(y, x), F.l1_loss(y, x)
        usage.update(model.quantize, tokens)
        revived = 0
        if i % settings.revive_every == 0 and i < 0.8 * settings.steps:
            revived = usage.revive(model.quantize, pool, generator)
        return {
            "loss": mse + settings.l1 * l1 + vq,
            "mse": mse.detach(),
            "l1": l1.detach(),
            "vq": vq.detach(),
            "revived": float(revived),
        }

    return loop.train(
        folder=out,
        name="vqvae",
        model=model,
        optimizer=optimizer,
        steps=settings.steps,
        peak=settings.peak,
        warmup=settings.warmup,
        step_fn=step,
        max_minutes=settings.max_minutes,
        evaluate=lambda: reconstruction(model, test[:1000], side),
    )
