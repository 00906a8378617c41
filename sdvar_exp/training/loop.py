"""Shared by all trainings: learning-rate schedule, resumable checkpoints, progress, a loss log."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

CLIP, NOTED_EVERY = 1.0, 25
"""Largest norm of a step's gradient; steps from one line of the log to the next."""


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then linear decay to 1 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * (1 - (step - warmup) / max(1, steps - warmup)))


def grouped_parameters(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, gains, norms and embeddings do not."""
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            keep = p.ndim < 2 or "emb" in name or "pos_" in name or "scale_mul" in name or "ada_gss" in name
            (plain if keep else decay).append(p)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def save_atomic(payload: dict[str, Any] | torch.Tensor, path: Path) -> None:
    """Write a checkpoint so that a kill, or another process that writes it, leaves the old one or a whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{os.getpid()}.part")
    torch.save(payload, part)
    os.replace(part, path)


def train(
    *,
    folder: Path,
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    peak: float,
    warmup: int,
    step_fn: Callable[[int, torch.Generator], dict[str, torch.Tensor | float]],
    evaluate: Callable[[], dict[str, float]] | None = None,
    save_every: int = 100,
    eval_every: int = 500,
    max_minutes: float = math.inf,
) -> dict[str, float]:
    """Run `step_fn` (which gives a dict with `loss`) from the last checkpoint to `steps`.

    The folder receives `NAME.ckpt` (resume point) and `NAME.log.jsonl` (losses). Batches are drawn from a generator
    keyed by the step, so a resumed run sees the same data as an uninterrupted one. Stops early, resumable, after
    `max_minutes`; the learning rate follows the larger of step and time fraction.
    """
    path, log_path = folder / f"{name}.ckpt", folder / f"{name}.log.jsonl"
    start, spent = 0, 0.0
    if path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, spent = state["step"], state["seconds"]
        log.info("%s: resumed at step %d", name, start)
    folder.mkdir(parents=True, exist_ok=True)
    began, last, done = time.monotonic(), dict[str, float](), start

    def elapsed() -> float:
        return spent + time.monotonic() - began

    def note(out: dict[str, torch.Tensor | float], final: bool) -> None:
        nonlocal last
        last = {k: float(torch.as_tensor(v).detach()) for k, v in out.items()}
        left = min(elapsed() / done * (steps - done), max_minutes * 60 - elapsed())
        text = " ".join(f"{k} {v:.4f}" for k, v in last.items())
        log.info("%s step %d/%d %s | %.0f s, %.0f s left", name, done, steps, text, elapsed(), max(left, 0))
        if evaluate is not None and (done % eval_every == 0 or final):
            model.eval()
            last |= {f"eval_{k}": v for k, v in evaluate().items()}
            model.train()
            log.info("%s eval %s", name, {k: round(v, 4) for k, v in last.items() if k.startswith("eval_")})
        with log_path.open("a", encoding="utf-8") as f:
            f.write(json.dumps({"step": done, "seconds": round(elapsed(), 1), **last}) + "\n")

    def save() -> None:
        save_atomic(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done, "seconds": elapsed()}, path
        )

    model.train()
    out: dict[str, torch.Tensor | float] = {}
    for step in range(start, steps):
        progress = max(step / steps, elapsed() / (max_minutes * 60))
        if progress >= 1:
            break
        rate = learning_rate(round(progress * steps), steps, peak, warmup)
        for group in optimizer.param_groups:
            group["lr"] = min(rate, peak * (step + 1) / warmup)
        out = step_fn(step, torch.Generator().manual_seed(0x5D << 32 | step))
        loss = torch.as_tensor(out["loss"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        done = step + 1
        if done % NOTED_EVERY == 0 and done != steps:
            note(out, final=False)
        if done % save_every == 0:
            save()
    if done > start:
        note(out, final=True)
        save()
    model.eval()
    return last
