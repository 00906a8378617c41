"""Distillation of the draft: trained on the target's own samples to give the target's guided distributions.

The loss is KL(p ‖ q) of the guided distributions, p the target's and q the draft's, averaged over positions, as in
knowledge distillation on the teacher's samples (DistillSpec, Zhou et al., arXiv 2310.08461). The guidance strength is
drawn anew for each step, so that the draft fits a range of strengths and, at 0, the conditional distribution itself.
With `hidden` the draft is fed the target's last hidden rows too (`models/hidden.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from sdvar_exp.errors import require
from sdvar_exp.models.hidden import HiddenRows
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.training import loop
from sdvar_exp.training.var import VARSettings, build, split_stages, start_from

log = logging.getLogger(__name__)


def _student() -> VARSettings:
    return VARSettings(
        name="distilled", depth=2, width=96, heads=3, steps=2000, peak=2e-3, max_minutes=25.0, short_share=0.5, bf16=True
    )


@dataclass(frozen=True)
class DistillSettings:
    """Samples of the target, and the training on them.

    student: shape and training of the draft (`drop_label` is not read, both guidance halves are always fed).
    samples, chunk: how many, and how many in a file; drawn with `cfg` (linear schedule) and no truncation.
    held_out: the last so many are for measuring alone.
    strongest: each step draws its strength from [0, strongest].
    first_stage: the loss reads the stages from here on, for a draft that takes over there (CoDe's refiner, arXiv 2411.17787).
    hidden: train the matrices of `proposer=hidden_rows` along with the draft. matrices_only: leave the draft as it is.
    later: twice so likely, a step's rows read the hidden rows of one more stage before.
    """

    student: VARSettings = field(default_factory=_student)
    samples: int = 6000
    chunk: int = 250
    held_out: int = 250
    cfg: float = 1.5
    strongest: float = 3.0
    first_stage: int = 0
    hidden: bool = False
    matrices_only: bool = False
    later: float = 0.3

    def __post_init__(self) -> None:
        require(
            self.samples % self.chunk == 0 and self.held_out % self.chunk == 0,
            f"distilled.samples and distilled.held_out must be multiples of distilled.chunk={self.chunk}",
        )
        require(0 < self.held_out < self.samples, "distilled.held_out must lie between 0 and distilled.samples")
        require(self.hidden or not self.matrices_only, "distilled.matrices_only needs distilled.hidden=true")
        require(self.first_stage >= 0, f"distilled.first_stage must be ≥ 0, got {self.first_stage}")
        require(
            self.first_stage < self.student.short_stages or self.student.short_share == 0,
            "distilled.first_stage must lie before distilled.student.short_stages; or set distilled.student.short_share=0",
        )


def linear_weights(vae: VQVAE, strength: float, stages: int | None = None) -> torch.Tensor:
    """t of every row under VAR's linear schedule, (1, rows, 1)."""
    pyramid = vae.pyramid
    last = pyramid.stages - 1
    per_row = [strength * k / last for k in range(stages or pyramid.stages) for _ in range(pyramid.lengths[k])]
    return torch.tensor(per_row)[None, :, None]


def guided(both_2BlV: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(1+t)·cond - t·uncond; conditional rows first. (B, l, V)."""
    cond, null = both_2BlV.float().chunk(2)
    return (1 + weights) * cond - weights * null


@torch.inference_mode()
def draw(model: VAR, vae: VQVAE, labels_B: torch.Tensor, cfg: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of a model alone, in main memory: codes (B, L), unguided logits of both halves (2B, L, V), conditional first."""
    generator = torch.Generator().manual_seed(seed)
    doubled = torch.cat((labels_B, torch.full_like(labels_B, model.num_classes))).to(model.device)
    condition, cache = model.condition(doubled), model.new_cache(len(doubled))
    weights, f_hat = linear_weights(vae, cfg).to(model.device), vae.quantize.empty(len(labels_B))
    codes, logits = [], []
    for k in range(vae.pyramid.stages):
        if k == 0:
            x = model.first_rows(condition.class_NC)
        else:
            x = model.stage_rows(k, vae.quantize.next_input(k, f_hat), k + 1).repeat(2, 1, 1)
        both = model(x, condition, cache)
        cache.advance(x.shape[1])
        scores = guided(both, weights[:, vae.pyramid.rows(k, k + 1)])
        noise = -torch.log(torch.empty(scores.shape).exponential_(generator=generator)).to(scores)
        codes.append((scores + noise).argmax(-1))
        logits.append(both)
        f_hat = vae.quantize.accumulate(k, codes[-1], f_hat)
    return torch.cat(codes, 1).cpu(), torch.cat(logits, 1).cpu()


def draw_samples(s: DistillSettings, target: VAR, vae: VQVAE, out: Path) -> list[Path]:
    """Files of `s.chunk` samples each (codes int16, labels, logits float16), classes in equal shares; made once."""
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for i in range(s.samples // s.chunk):
        path = out / f"samples-{i:03d}.pt"
        files.append(path)
        if path.is_file():
            continue
        labels = torch.arange(s.chunk) % target.num_classes
        parts = [draw(target, vae, y, s.cfg, seed=i * s.chunk + j) for j, y in enumerate(labels.split(50))]
        halves = [torch.stack(both.chunk(2)) for _, both in parts]
        loop.save_atomic(
            {
                "codes": torch.cat([c for c, _ in parts]).to(torch.int16),
                "labels": labels,
                "logits": torch.cat(halves, dim=1).half(),
            },
            path,
        )
        log.info("samples of the target: %d/%d", (i + 1) * s.chunk, s.samples)
    return files


def load_samples(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """codes (n, L), labels (n,), logits (2, n, L, V) of all files, conditional half first."""
    chunks: list[dict[str, torch.Tensor]] = [torch.load(f, weights_only=True, mmap=True) for f in files]
    dims = {"codes": 0, "labels": 0, "logits": 1}
    return {key: torch.cat([c[key] for c in chunks], dim=dim) for key, dim in dims.items()}


class Student(nn.Module):
    """A draft and the matrices that feed it the target's hidden rows."""

    def __init__(self, draft: VAR, target: VAR) -> None:
        super().__init__()
        self.draft, self.matrices = draft, HiddenRows(target.width, draft.width)
        self.target = [target]  # no part of it: it is not trained

    def added(self, vae: VQVAE, labels_N: torch.Tensor, input_NLc: torch.Tensor, stages: int, lag: int) -> torch.Tensor:
        """The sums that the target's hidden rows give to those of the draft."""
        hidden: list[torch.Tensor] = []
        with torch.no_grad():
            self.target[0].teacher_logits(labels_N, input_NLc, stages, hidden=hidden)
        return self.matrices.teacher_rows(vae.pyramid, torch.cat(hidden), lag, stages)

    def save(self, folder: Path, name: str) -> None:
        """`NAME.safetensors` of the draft and `NAME-hidden.safetensors` of the matrices, in half precision."""
        for module, file in ((self.draft, name), (self.matrices, f"{name}-hidden")):
            save_file({k: v.half().contiguous() for k, v in module.state_dict().items()}, folder / f"{file}.safetensors")


def student_logits(
    model: VAR | Student, vae: VQVAE, codes: torch.Tensor, labels: torch.Tensor, stages: int, lag: int = 1
) -> torch.Tensor:
    """Teacher-forced logits of both guidance halves, (2B, rows, V). lag: stages between rows and the hidden rows they read."""
    codes, labels = codes.to(vae.device), labels.to(vae.device)
    with torch.no_grad():
        inputs = vae.quantize.teacher_input(split_stages(vae, codes)).repeat(2, 1, 1)
    draft = model.draft if isinstance(model, Student) else model
    doubled = torch.cat((labels, torch.full_like(labels, draft.num_classes)))
    added = model.added(vae, doubled, inputs, stages, lag) if isinstance(model, Student) else None
    return draft.teacher_logits(doubled, inputs, stages, added)


@torch.no_grad()
def agreement(
    model: VAR | Student, vae: VQVAE, samples: dict[str, torch.Tensor], cfg: float, batch: int = 50, lag: int = 1
) -> dict[str, float]:
    """Agreement of a draft with the target on the target's samples, over all tokens and by stage.

    `overlap` is 1-TV of the guided distributions (β, the acceptance probability of `rejection`); `match` the share of equal
    tokens when both are sampled with one Gumbel noise (`exact`).
    """
    generator = torch.Generator().manual_seed(0)
    weights, pyramid = linear_weights(vae, cfg), vae.pyramid
    overlap, match = torch.zeros(pyramid.total), torch.zeros(pyramid.total)
    n = len(samples["labels"])
    for i in range(0, n, batch):
        rows = slice(i, i + batch)
        p = guided(samples["logits"][:, rows].flatten(0, 1), weights)
        both = student_logits(model, vae, samples["codes"][rows], samples["labels"][rows], pyramid.stages, lag)
        q = guided(both.cpu(), weights)
        noise = -torch.log(torch.empty_like(p).exponential_(generator=generator))
        match += ((p + noise).argmax(-1) == (q + noise).argmax(-1)).float().sum(0)
        overlap += torch.minimum(p.softmax(-1), q.softmax(-1)).sum(-1).sum(0)
    out = {"overlap": (overlap / n).mean().item(), "match": (match / n).mean().item()}
    for k in range(pyramid.stages):
        out[f"overlap_{k}"] = (overlap / n)[pyramid.rows(k, k + 1)].mean().item()
        out[f"match_{k}"] = (match / n)[pyramid.rows(k, k + 1)].mean().item()
    return out


def train_distilled(s: DistillSettings, target: VAR, vae: VQVAE, out: Path) -> dict[str, Any]:
    """Draw the samples, train (or continue) the student on them; leaves `NAME.ckpt` and `NAME.log.jsonl` in `out`.

    Samples lie in main memory; `target` and `vae` say which device works.
    """
    torch.manual_seed(0)
    files = draw_samples(s, target, vae, out / f"samples-{s.student.name}")
    samples = load_samples(files)
    cut = s.samples - s.held_out
    held = {"codes": samples["codes"][cut:], "labels": samples["labels"][cut:], "logits": samples["logits"][:, cut:]}
    draft = build(s.student, vae, target.num_classes)
    if s.student.init:
        start_from(draft, Path(s.student.init))
    draft.requires_grad_(not s.matrices_only)
    model = (Student(draft, target) if s.hidden else draft).to(vae.device)
    optimizer = torch.optim.AdamW(
        loop.grouped_parameters(model, s.student.weight_decay), lr=s.student.peak, betas=(0.9, 0.95), fused=True
    )
    stages, first = vae.pyramid.stages, vae.pyramid.offsets[s.first_stage]

    def step(i: int, generator: torch.Generator) -> dict[str, torch.Tensor | float]:
        pick = torch.randint(cut, (s.student.batch,), generator=generator)
        strength = s.strongest * torch.rand((), generator=generator).item()
        short = torch.rand((), generator=generator).item() < s.student.short_share
        until = s.student.short_stages if short else stages
        lag = 1 + int(torch.rand((), generator=generator) < s.later) + int(torch.rand((), generator=generator) < s.later)
        weights = linear_weights(vae, strength, until).to(vae.device)
        teacher = samples["logits"][:, pick, : weights.shape[1]].flatten(0, 1).to(vae.device)
        p = guided(teacher, weights).log_softmax(-1)
        with torch.autocast(vae.device.type, torch.bfloat16, enabled=s.student.bf16):
            both = student_logits(model, vae, samples["codes"][pick], samples["labels"][pick], until, lag)
        q = guided(both, weights).log_softmax(-1)
        return {"loss": F.kl_div(q, p, log_target=True, reduction="none").sum(-1)[:, first:].mean()}

    last = loop.train(
        folder=out,
        name=s.student.name,
        model=model,
        optimizer=optimizer,
        steps=s.student.steps,
        peak=s.student.peak,
        warmup=s.student.warmup,
        step_fn=step,
        max_minutes=s.student.max_minutes,
        eval_every=250,
        save_every=100,
        evaluate=lambda: agreement(model, vae, held, s.cfg),
    )
    if isinstance(model, Student):
        model.save(out, s.student.name)
    return last
