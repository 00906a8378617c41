"""The arithmetic of a block as functions of plain tensors: what `VAR` runs, and what a compiler or a graph sees.

No modules and no look-ups inside the loop: `VAR.condition` hands out the weights once per decode. With a cache, keys are
normalised straight into their slots and nothing is kept for a gradient; without one, everything is differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from sdvar_exp.models.cache import KVCache
from sdvar_exp.models.products import Weight

TensorMap = Callable[[torch.Tensor], torch.Tensor]
"""A module that takes a tensor and gives one, which torch leaves untyped."""

Spans = tuple[tuple[int, int, int, int], ...]
"""Attention without a mask tensor: rows first … stop-1 of a pass see the columns from … to-1, run by run."""


class Layer(NamedTuple):
    """Weights of one block, each a tensor or prepared.

    qkv_bias: (q, 0, v); gain_2H1: factors of normalised q and k, None for plain attention.
    """

    qkv: Weight
    qkv_bias: torch.Tensor
    gain_2H1: torch.Tensor | None
    scale: float
    proj: Weight
    proj_bias: torch.Tensor
    fc1: Weight
    fc1_bias: torch.Tensor
    fc2: Weight
    fc2_bias: torch.Tensor


def careful() -> bool:
    """Whether results must not be written into given memory: gradients are wanted, or a compiler looks on."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


def layer_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.layer_norm(x, (x.shape[-1],), None, None, eps, False)


def product(h: torch.Tensor, weight: Weight, bias: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """h·Wᵀ + bias, then GELU (tanh) if asked."""
    if not isinstance(weight, torch.Tensor):
        return weight(h, bias, gelu)
    out = F.linear(h, weight, bias)
    if not gelu:
        return out
    return F.gelu(out, approximate="tanh") if careful() else torch.ops.aten.gelu_(out, approximate="tanh")


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, mask_qK: torch.Tensor | None, spans: Spans | None
) -> torch.Tensor:
    """Attention output (N, q, heads, head_dim). With `spans` every run of rows is an unmasked call on its own columns."""
    if spans is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask_qK, scale=scale).transpose(1, 2)
    parts = [
        F.scaled_dot_product_attention(q[:, :, a:b], k[:, :, c:d], v[:, :, c:d], scale=scale).transpose(1, 2)
        for a, b, c, d in spans
    ]
    return torch.cat(parts, dim=1)


def attention(
    h_NqC: torch.Tensor,
    w: Layer,
    heads: int,
    block: int,
    cache: KVCache | None,
    rows: slice,
    mask_qK: torch.Tensor | None,
    spans: Spans | None,
) -> torch.Tensor:
    """Self-attention of one block before its output projection, (N, q, C)."""
    N, n, C = h_NqC.shape
    qkv = product(h_NqC, w.qkv, w.qkv_bias).view(N, n, 3, heads, C // heads)
    q, k, v = qkv.transpose(1, 3).unbind(2)  # each (N, heads, q, head_dim)
    slots = None if cache is None else cache.slots(block, rows, n)
    if w.gain_2H1 is not None:
        norm = torch.linalg.vector_norm(qkv[:, :, :2], dim=-1, keepdim=True).clamp_min(1e-12)
        factor_q, factor_k = (w.gain_2H1 / norm).transpose(1, 3).unbind(2)  # each (N, heads, q, 1)
        q = q * factor_q
        k = torch.mul(k, factor_k, out=slots[0]) if slots is not None and not careful() else k * factor_k
    if slots is not None and k is not slots[0]:
        slots[0].copy_(k)
    if cache is not None and slots is not None:
        slots[1].copy_(v)
        k, v = cache.view(block, rows, n)
    out = attend(q.to(v.dtype), k.to(v.dtype), v, w.scale, mask_qK, spans)
    return out.reshape(N, n, C)


def run_block(
    x: torch.Tensor,
    mod: tuple[torch.Tensor, ...],
    w: Layer,
    heads: int,
    eps: float,
    block: int,
    cache: KVCache | None,
    rows: slice,
    mask_qK: torch.Tensor | None,
    spans: Spans | None,
) -> torch.Tensor:
    """One block, attention and MLP modulated by the label (adaLN): (N, q, C) → (N, q, C)."""
    g1, g2, s1, s2, b1, b2 = mod
    h = torch.addcmul(b1, layer_norm(x, eps), s1)
    h = product(attention(h, w, heads, block, cache, rows, mask_qK, spans), w.proj, w.proj_bias)
    x = torch.addcmul(x, h, g1)
    h = product(torch.addcmul(b2, layer_norm(x, eps), s2), w.fc1, w.fc1_bias, gelu=True)
    return torch.addcmul(x, product(h, w.fc2, w.fc2_bias), g2)
