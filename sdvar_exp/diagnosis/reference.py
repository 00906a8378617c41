"""The expected results, computed the long way: from the codes alone, in one masked pass, without cache, session or decoder.

Everything that `check` finds is a difference between this and what the decoding core did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional as F

from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.session import Forward, ModelSession
from sdvar_exp.models.cache import KVCache
from sdvar_exp.models.pair import Pair
from sdvar_exp.models.quant import MultiScaleQuantizer
from sdvar_exp.models.var import VAR


class Recorder:
    """Stands in for a KV cache in a pass over all rows at once: keys and values by block, nothing before them."""

    def __init__(self, model: VAR, batch: int, rows: int) -> None:
        shape = (batch, model.heads, rows, model.width // model.heads)
        self.keys = [torch.full(shape, torch.nan, dtype=model.dtype, device=model.device) for _ in range(model.depth)]
        self.values = [torch.full_like(k, torch.nan) for k in self.keys]

    def slots(self, block: int, rows: slice, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots for the rows of a block: all there are."""
        return self.keys[block][rows], self.values[block][rows]

    def view(self, block: int, rows: slice, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values that the rows of a block attend to: the same."""
        return self.slots(block, rows, count)


@dataclass(frozen=True)
class FullPass:
    """One masked pass over all rows: logits (B, L_k, V) of each stage, keys and values (B, heads, rows, head_dim) by block."""

    logits: list[torch.Tensor]
    keys: list[torch.Tensor]
    values: list[torch.Tensor]


def plain_f_hats(quantize: MultiScaleQuantizer, tokens: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """f̂ after each stage as the sum of what its codes and those before add, every sum a new tensor."""
    out: list[torch.Tensor] = []
    for k, codes in enumerate(tokens):
        added = quantize.contribution(k, quantize.code_map(k, codes))
        out.append(added if k == 0 else out[-1] + added)
    return out


def plain_rows(model: VAR, labels_B: torch.Tensor, f_hats: Sequence[torch.Tensor], stages: int) -> list[torch.Tensor]:
    """x_0 … x_{n-1}, each (B, L_k, C): class and start embedding, or word_embed(area(f̂_{k-1})); plus level and position."""
    p = model.pyramid
    rows = []
    for k in range(stages):
        place = model.lvl_embed.weight[k] + model.pos_1LC[:, p.offsets[k] : p.offsets[k + 1]]
        if k == 0:
            rows.append(model.class_emb(labels_B)[:, None] + model.pos_start + place)
        else:
            area = F.adaptive_avg_pool2d(f_hats[k - 1], p.patch_nums[k]).flatten(2).transpose(1, 2)
            rows.append(model.word_embed(area.to(model.dtype)) + place)
    return rows


def full_pass(model: VAR, labels_B: torch.Tensor, rows: Sequence[torch.Tensor]) -> FullPass:
    """All rows of some stages at once under s(j) ≤ s(i)."""
    lengths = model.pyramid.lengths[: len(rows)]
    stage = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths)).to(model.device)
    recorder = Recorder(model, len(labels_B), sum(lengths))
    mask = stage[:, None] >= stage[None, :]
    logits = model(torch.cat(list(rows), dim=1), model.condition(labels_B), cast(KVCache, recorder), mask)
    return FullPass(list(logits.split(lengths, dim=1)), recorder.keys, recorder.values)


@dataclass
class Subject:
    """A pair under examination.

    stages: how many are checked. labels_B: two classes. tokens: codes drawn at random, (B, L_k) each. weights: guidance
    of each stage, all different and none 0. limit: relative difference that rounding may make. gamma: stages of a merged pass.
    known, baseline: made once.
    """

    pair: Pair
    stages: int
    labels_B: torch.Tensor
    tokens: list[torch.Tensor]
    weights: tuple[float, ...]
    limit: float
    seed: int
    gamma: int
    known: dict[str, Known] = field(default_factory=dict)
    baseline: Decoder | None = None

    @cached_property
    def f_hats(self) -> list[torch.Tensor]:
        return plain_f_hats(self.pair.vae.quantize, self.tokens)

    def model(self, role: str) -> VAR:
        return cast(VAR, getattr(self.pair, role))

    def of(self, role: str) -> Known:
        """The reference of one model, made once."""
        if role not in self.known:
            self.known[role] = Known(self, self.model(role))
        return self.known[role]

    def session(self, role: str, weights: Sequence[float] | None = None) -> tuple[ModelSession, list[Forward]]:
        """A fresh session of the core, and the list that its forwards are put into."""
        session = ModelSession(self.model(role), self.pair.vae.quantize.next_input, self.labels_B, weights or self.weights)
        session.cache.kv.fill_(torch.nan)  # what nobody wrote must not look right because memory is used again
        seen: list[Forward] = []
        session.observer = lambda _, forward: seen.append(forward)
        return session, seen

    def cuts(self) -> list[tuple[int, ...]]:
        """Ways to feed the stages: one by one, all at once, in passes of γ; as the stages where a pass ends."""
        n = self.stages
        return list(dict.fromkeys([tuple(range(1, n + 1)), (n,), (*range(self.gamma, n, self.gamma), n)]))


class Known:
    """The right outputs of one model for a subject's codes: input rows, and a full pass for each guidance half."""

    def __init__(self, subject: Subject, model: VAR) -> None:
        self.model, self.labels_B = model, subject.labels_B
        self.null_B = torch.full_like(subject.labels_B, model.num_classes)
        self.rows = plain_rows(model, self.labels_B, subject.f_hats, subject.stages)
        self.null_rows = [plain_rows(model, self.null_B, subject.f_hats, 1)[0], *self.rows[1:]]

    @cached_property
    def cond(self) -> FullPass:
        return full_pass(self.model, self.labels_B, self.rows)

    @cached_property
    def null(self) -> FullPass:
        return full_pass(self.model, self.null_B, self.null_rows)


def draw_codes(pair: Pair, stages: int, batch: int, seed: int) -> list[torch.Tensor]:
    """Codes of the first stages, uniform, the same on every machine; (B, L_k) each."""
    drawn: Any = np.random.Generator(np.random.Philox(key=seed))
    return [
        torch.from_numpy(drawn.integers(pair.target.vocab_size, size=(batch, n))).to(pair.target.device)
        for n in pair.pyramid.lengths[:stages]
    ]
