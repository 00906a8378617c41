"""Training of the embedded target and draft: next-scale cross-entropy on the codes of a trained VQVAE."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from sdvar_exp.errors import UserError
from sdvar_exp.models.reading import read_state
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.training import loop
from sdvar_exp.training.data import load_split, prepare

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VARSettings:
    """Shape and training of one transformer.

    short_stages, short_share: this share of the steps sees only the first `short_stages` stages.
    init: safetensors file to start from instead of fresh weights. compile: fuse the pass with `torch.compile` (needs a
    C++ compiler; the first steps take minutes).
    """

    name: str = "target"
    depth: int = 6
    width: int = 192
    heads: int = 3
    steps: int = 4000
    batch: int = 32
    peak: float = 1.5e-3
    warmup: int = 60
    weight_decay: float = 0.05
    drop_label: float = 0.1
    short_stages: int = 7
    short_share: float = 0.7
    max_minutes: float = 70.0
    bf16: bool = False
    init: str = ""
    compile: bool = False


def initialise(model: VAR) -> None:
    """Fresh weights as in the VAR paper's code: truncated normals, residual branches nearly closed, a small head."""
    std = math.sqrt(1 / model.width / 3)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        nn.init.trunc_normal_(model.pos_start, std=std)
        nn.init.trunc_normal_(model.pos_1LC, std=std)
        model.head.weight.mul_(0.02)
        for block in model.layers:
            block.attn.proj.weight.div_(math.sqrt(2 * model.depth))
            block.ffn.fc2.weight.div_(math.sqrt(2 * model.depth))
            if model.shared_aln:
                block.ada_gss[:, :, 2:].mul_(0.5)
                block.ada_gss[:, :, :2].mul_(1e-5)
            else:
                block.modulator.weight[2 * model.width :].mul_(0.5)
                block.modulator.weight[: 2 * model.width].mul_(1e-5)


def open_branches(model: VAR, gain: float = 0.1) -> None:
    """Let the residual branches start small but open: a short training cannot wait for gains of 1e-5 to grow."""
    with torch.no_grad():
        for block in model.layers:
            block.modulator.bias[: 2 * model.width] = gain


def build(s: VARSettings, vae: VQVAE, classes: int = 10) -> VAR:
    """A freshly initialised transformer for the codes of `vae`."""
    q = vae.quantize
    model = VAR(q.pyramid.patch_nums, q.vocab_size, q.width, classes, s.depth, s.width, s.heads)
    initialise(model)
    open_branches(model)
    return model


def start_from(model: nn.Module, path: Path) -> None:
    """Fill `model` with the weights of a safetensors file of the same shape; `UserError` where there is none."""
    if not path.is_file():
        raise UserError(f"init={path} does not exist: give a safetensors file of this model, or leave init empty")
    saved = read_state(path, "VAR")
    own = model.state_dict()
    wrong = [k for k, v in saved.items() if k not in own or own[k].shape != v.shape]
    if wrong:
        raise UserError(f"init={path} does not fit this shape: {wrong[0]} differs; set its settings as the file has them")
    model.load_state_dict({k: saved[k].to(v.dtype) if k in saved else v for k, v in own.items()})


@torch.no_grad()
def encode_split(vae: VQVAE, data_folder: Path, split: str, cache: Path, batch: int = 200) -> tuple[torch.Tensor, ...]:
    """Codes (n, L) int16 and labels (n,) of a split, computed once and kept in `cache`."""
    images, labels = load_split(data_folder, split)
    if cache.is_file():
        return torch.load(cache, weights_only=True), labels
    side = vae.pyramid.side * vae.downsample
    parts = []
    for i, part in enumerate(images.split(batch)):
        parts.append(torch.cat(vae.image_to_tokens(prepare(part, side).to(vae.device)), dim=1).short().cpu())
        if i % 50 == 0:
            log.info("encoding %s: %d/%d images", split, i * batch, len(images))
    tokens = torch.cat(parts)
    loop.save_atomic(tokens, cache)
    return tokens, labels


def split_stages(vae: VQVAE, tokens_BL: torch.Tensor) -> list[torch.Tensor]:
    """Flat codes as a list of stages."""
    return list(tokens_BL.long().split(vae.pyramid.lengths, dim=1))


@torch.no_grad()
def stage_losses(model: VAR, vae: VQVAE, tokens: torch.Tensor, labels: torch.Tensor, batch: int = 50) -> dict[str, float]:
    """Held-out cross-entropy in nats per token, over all stages (`ce`) and of each stage (`ce_k`)."""
    total = torch.zeros(vae.pyramid.total)
    for t, y in zip(tokens.to(vae.device).split(batch), labels.to(vae.device).split(batch), strict=True):
        inputs = vae.quantize.teacher_input(split_stages(vae, t))
        logits = model.teacher_logits(y, inputs)
        total += F.cross_entropy(logits.flatten(0, 1), t.long().flatten(), reduction="none").view(len(t), -1).sum(0).cpu()
    mean = total / len(tokens)
    out = {"ce": mean.mean().item()}
    for k in range(vae.pyramid.stages):
        out[f"ce_{k}"] = mean[vae.pyramid.rows(k, k + 1)].mean().item()
    return out


def train_var(s: VARSettings, vae: VQVAE, data_folder: Path, out: Path) -> dict[str, float]:
    """Train (or continue) one transformer where `vae` is, and leave `NAME.ckpt` and `NAME.log.jsonl` in `out`."""
    torch.manual_seed(0)
    vae.eval().requires_grad_(False)
    tokens, labels = encode_split(vae, data_folder, "train", out / "train_tokens.pt")
    test_tokens, test_labels = encode_split(vae, data_folder, "t10k", out / "test_tokens.pt")
    model = build(s, vae, int(labels.max()) + 1).to(vae.device)
    if s.init:
        start_from(model, Path(s.init))
    forward = torch.compile(model.teacher_logits, dynamic=False) if s.compile else model.teacher_logits
    optimizer = torch.optim.AdamW(loop.grouped_parameters(model, s.weight_decay), lr=s.peak, betas=(0.9, 0.95), fused=True)
    stages, short = vae.pyramid.stages, vae.pyramid.count(0, s.short_stages)

    def step(i: int, generator: torch.Generator) -> dict[str, torch.Tensor | float]:
        pick = torch.randint(len(tokens), (s.batch,), generator=generator)
        y = torch.where(torch.rand(s.batch, generator=generator) < s.drop_label, model.num_classes, labels[pick])
        t, y = tokens[pick].long().to(vae.device), y.to(vae.device)
        cut = torch.rand((), generator=generator).item() < s.short_share
        with torch.no_grad():
            inputs = vae.quantize.teacher_input(split_stages(vae, t))
        with torch.autocast(vae.device.type, torch.bfloat16, enabled=s.bf16):
            logits = forward(y, inputs, s.short_stages if cut else stages)
        target = t[:, :short] if cut else t
        loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten())
        return {"loss": loss}

    return loop.train(
        folder=out,
        name=s.name,
        model=model,
        optimizer=optimizer,
        steps=s.steps,
        peak=s.peak,
        warmup=s.warmup,
        step_fn=step,
        max_minutes=s.max_minutes,
        eval_every=250,
        save_every=100,
        evaluate=lambda: stage_losses(model, vae, test_tokens[:500], test_labels[:500]),
    )
