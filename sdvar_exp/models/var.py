"""The VAR transformer (Tian et al., arXiv 2404.02905) with the official parameter names.

A forward takes its cache and mask as arguments and advances nothing. Modulations depend on the label alone:
`condition` computes them once per decode. On a CPU a forward of many rows goes through in groups of batch rows whose
intermediate results stay in the processor's cache, in memory that is already mapped.

The rows of stage k are built from f̂_{k-1}, never from its codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from sdvar_exp.models.cache import KVCache
from sdvar_exp.models.layers import Layer, Spans, careful, layer_norm, product, run_block
from sdvar_exp.models.products import weight_of
from sdvar_exp.pyramid import Pyramid

ROWS_AT_ONCE = 512  # rows of a group on a CPU; matrix products are at their full speed from some hundred on


@dataclass(frozen=True)
class Condition:
    """All that the transformer needs of the labels, computed once per decode for N batch rows, and its weights at hand.

    class_NC: class embeddings; blocks: per block (gain₁, gain₂, scale₁+1, scale₂+1, shift₁, shift₂), each
    (N, 1, C); head: (scale+1, shift), each (N, 1, C); layers: weights of the blocks.
    """

    class_NC: torch.Tensor
    blocks: tuple[tuple[torch.Tensor, ...], ...]
    head: tuple[torch.Tensor, torch.Tensor]
    layers: tuple[Layer, ...]

    def narrow(self, rows: slice) -> Condition:
        """The same condition for some of the batch rows (views)."""
        return Condition(
            self.class_NC[rows],
            tuple(tuple(t[rows] for t in block) for block in self.blocks),
            (self.head[0][rows], self.head[1][rows]),
            self.layers,
        )


class SelfAttention(nn.Module):
    zero_k_bias: torch.Tensor

    def __init__(self, width: int, heads: int, l2_norm: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.l2_norm = heads, width // heads, l2_norm
        if l2_norm:
            self.scale = 1.0
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))
        else:
            self.scale = 0.25 / math.sqrt(self.head_dim)
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.derive()
        self.proj = nn.Linear(width, width)

    def derive(self) -> None:
        """The bias of the keys, which is none."""
        self.register_buffer("zero_k_bias", torch.zeros(self.heads * self.head_dim))

    def gains(self) -> torch.Tensor | None:
        """Factors of the normalised q and k per head, (2, heads, 1)."""
        if not self.l2_norm:
            return None
        gain_H1 = self.scale_mul_1H11.clamp_max(math.log(100)).exp().view(self.heads, 1)
        return torch.stack((gain_H1, torch.ones_like(gain_H1)))


class FFN(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)


class Block(nn.Module):
    """Attention and MLP, both modulated by the label (adaLN)."""

    def __init__(self, width: int, heads: int, hidden: int, shared_aln: bool, l2_norm: bool, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.attn = SelfAttention(width, heads, l2_norm)
        self.ffn = FFN(width, hidden)
        if shared_aln:
            self.ada_gss = nn.Parameter(torch.randn(1, 1, 6, width) / width**0.5)
        else:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    @property
    def modulator(self) -> nn.Linear:
        """The layer that makes the six modulations (not with shared_aln)."""
        return cast(nn.Linear, self.ada_lin[1])

    def modulation(self, class_NC: torch.Tensor, shared_N16C: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        width = class_NC.shape[1]
        six = self.ada_lin(class_NC).view(-1, 1, 6, width) if shared_N16C is None else self.ada_gss + shared_N16C
        g1, g2, s1, s2, b1, b2 = six.unbind(2)
        return g1, g2, s1 + 1, s2 + 1, b1, b2

    def layer(self) -> Layer:
        """The block's weights as plain tensors."""
        a, f = self.attn, self.ffn
        return Layer(
            weight_of(a.mat_qkv),
            torch.cat((a.q_bias, a.zero_k_bias, a.v_bias)),
            a.gains(),
            a.scale,
            weight_of(a.proj),
            a.proj.bias,
            weight_of(f.fc1),
            f.fc1.bias,
            weight_of(f.fc2),
            f.fc2.bias,
        )


class HeadNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))


class VAR(nn.Module):
    """Transformer over a pyramid of code maps.

    Args:
        patch_nums: sides of the stages.
        vocab_size, code_width: V and C_vae of the VQVAE whose codes it models.
        num_classes: labels; row `num_classes` of the class embedding is the null class.
        depth, width, heads: official models have width = 64·depth and heads = depth.
        shared_aln: one modulation layer shared by all blocks (512² models).
        attn_l2_norm: cosine attention with a learnt gain per head.
    """

    __call__: Callable[..., torch.Tensor]
    lvl_1L: torch.Tensor
    attn_bias_for_masking: torch.Tensor

    def __init__(
        self,
        patch_nums: tuple[int, ...],
        vocab_size: int,
        code_width: int,
        num_classes: int = 1000,
        depth: int = 16,
        width: int = 1024,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        shared_aln: bool = False,
        attn_l2_norm: bool = True,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(tuple(patch_nums))
        self.vocab_size, self.num_classes, self.depth, self.width, self.heads = (vocab_size, num_classes, depth, width, heads)
        S, L = self.pyramid.stages, self.pyramid.total
        self.norm_eps, self.shared_aln = norm_eps, shared_aln
        self.word_embed = nn.Linear(code_width, width)
        self.class_emb = nn.Embedding(num_classes + 1, width)
        self.pos_start = nn.Parameter(torch.zeros(1, self.pyramid.lengths[0], width))
        self.pos_1LC = nn.Parameter(torch.zeros(1, L, width))
        self.lvl_embed = nn.Embedding(S, width)
        if shared_aln:
            self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        hidden = round(width * mlp_ratio)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, shared_aln, attn_l2_norm, norm_eps) for _ in range(depth))
        self.head_nm = HeadNorm(width)
        self.head = nn.Linear(width, vocab_size)
        self.derive()

    def derive(self) -> None:
        """Buffers that follow from the pyramid: the stage of every position, and who sees whom."""
        stage, L = torch.tensor(self.pyramid.stage_of), self.pyramid.total
        self.register_buffer("lvl_1L", stage.view(1, L))
        seen = torch.empty(L, L) if stage.is_meta else torch.where(stage[:, None] >= stage[None, :], 0.0, -torch.inf)
        self.register_buffer("attn_bias_for_masking", seen.view(1, 1, L, L))

    @property
    def layers(self) -> list[Block]:
        """The transformer blocks."""
        return cast(list[Block], list(self.blocks))

    @property
    def products(self) -> list[nn.Linear]:
        """The layers whose products take the time: those of the blocks, and the head."""
        return [self.head, *(m for b in self.layers for m in (b.attn.mat_qkv, b.attn.proj, b.ffn.fc1, b.ffn.fc2))]

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def new_cache(self, batch: int, dtype: torch.dtype | None = None, depth: int | None = None) -> KVCache:
        """An empty cache for `batch` rows and all L positions, of the first `depth` blocks (None: of all)."""
        blocks, head_width = self.depth if depth is None else depth, self.width // self.heads
        return KVCache(blocks, batch, self.heads, self.pyramid.total, head_width, dtype or self.dtype, self.device)

    def condition(self, labels_N: torch.Tensor, depth: int | None = None) -> Condition:
        """Class embeddings and the modulations of N labels (`num_classes` is the null class), of the first `depth` blocks."""
        class_NC = self.class_emb(labels_N)
        shared = self.shared_ada_lin(class_NC).view(-1, 1, 6, self.width) if self.shared_aln else None
        layers = self.layers[:depth]
        blocks = tuple(b.modulation(class_NC, shared) for b in layers)
        scale, shift = self.head_nm.ada_lin(class_NC).view(-1, 1, 2, self.width).unbind(2)
        return Condition(class_NC, blocks, (scale + 1, shift), tuple(b.layer() for b in layers))

    def positions(self, first: int, stop: int) -> torch.Tensor:
        """Level plus position embedding of the stages first … stop-1, (1, rows, C)."""
        rows = self.pyramid.rows(first, stop)
        return torch.add(self.lvl_embed(self.lvl_1L[:, rows]), self.pos_1LC[:, rows])

    def first_rows(self, class_NC: torch.Tensor) -> torch.Tensor:
        """x_0 = class embedding + start embedding + position, (N, L_0, C)."""
        return class_NC[:, None] + self.pos_start + self.positions(0, 1)

    def stage_rows(self, first: int, input_Bqc: torch.Tensor, stop: int) -> torch.Tensor:
        """x_k of the stages first ≥ 1 … stop-1 from their area-averaged maps, (B, rows, C)."""
        return torch.add(self.word_embed(input_Bqc), self.positions(first, stop))

    def forward(
        self,
        x_NqC: torch.Tensor,
        condition: Condition,
        cache: KVCache | None = None,
        mask_qK: torch.Tensor | None = None,
        rows: slice = slice(None),
        spans: Spans | None = None,
        hidden: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Logits of the given rows, (N, q, V).

        Args:
            x_NqC: input rows; with a cache they stand behind its `length` rows.
            condition: modulations of the N batch rows.
            cache: read, and written behind `length`; the caller advances it.
            mask_qK: bool (q, length + q), True = may attend; None = all.
            rows: which batch rows of the cache are fed.
            spans: the same mask as runs of rows with their columns (`masks.spans`); taken instead of it.
            hidden: takes the rows behind the last block, before the head's norm, (N, q, C); in parts, one behind another.
        """
        N, n, _ = x_NqC.shape
        at_once = max(1, ROWS_AT_ONCE // n)
        if at_once >= N or x_NqC.device.type != "cpu" or careful():
            last = self._hidden(x_NqC, condition, cache, mask_qK, rows, spans)
            if hidden is not None:
                hidden.append(last)
            return self._logits(last, condition)
        out, first = x_NqC.new_empty(N, n, self.vocab_size), rows.start or 0
        for a in range(0, N, at_once):
            part = slice(a, min(a + at_once, N))
            some = condition.narrow(part)
            h = self._hidden(x_NqC[part], some, cache, mask_qK, slice(first + part.start, first + part.stop), spans)
            self._logits(h, some, out[part])
            if hidden is not None:
                hidden.append(h)
        return out

    def _hidden(
        self,
        x: torch.Tensor,
        condition: Condition,
        cache: KVCache | None,
        mask_qK: torch.Tensor | None,
        rows: slice,
        spans: Spans | None,
    ) -> torch.Tensor:
        for i, (mod, layer) in enumerate(zip(condition.blocks, condition.layers, strict=True)):
            x = run_block(x, mod, layer, self.heads, self.norm_eps, i, cache, rows, mask_qK, spans)
        return x

    def _logits(self, x: torch.Tensor, condition: Condition, out: torch.Tensor | None = None) -> torch.Tensor:
        scale, shift = condition.head
        h = torch.addcmul(shift, layer_norm(x, self.norm_eps), scale)
        weight, bias = weight_of(self.head), self.head.bias
        if out is None:
            return product(h, weight, bias)
        if not isinstance(weight, torch.Tensor) or weight.dtype != h.dtype:  # prepared, or under autocast
            return out.copy_(product(h, weight, bias))
        return torch.addmm(bias, h.flatten(0, 1), weight.t(), out=out.view(-1, self.vocab_size))

    def teacher_logits(
        self,
        labels_B: torch.Tensor,
        input_BLc: torch.Tensor,
        stages: int | None = None,
        added_BLC: torch.Tensor | None = None,
        hidden: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """One masked pass over the first `stages` stages, conditional rows, (B, rows, V).

        `input_BLc` holds the teacher-forcing inputs of the stages 1 …, see `teacher_input`. added_BLC: added to the input rows.
        hidden: see `forward`.
        """
        stages = stages or self.pyramid.stages
        count = self.pyramid.count(1, stages) if stages > 1 else 0
        condition = self.condition(labels_B)
        x = self.first_rows(condition.class_NC)
        if stages > 1:
            x = torch.cat((x, self.stage_rows(1, input_BLc[:, :count], stages)), dim=1)
        stage = self.lvl_1L[0, : x.shape[1]]
        x = x if added_BLC is None else x + added_BLC
        return self.forward(x, condition, mask_qK=stage[:, None] >= stage[None, :], hidden=hidden)
