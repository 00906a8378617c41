"""A pair small enough to enumerate, for tests of distributions, and a way to decode many units of it, each as though alone.

Stages of 1, 2 and 3 tokens over four codes: 4096 images. Both models are tables of random logits: one by the codes before a
row's stage, and one by the codes that the rows of other stages in the KV cache were built from. So a stale or misplaced
cached row changes a distribution, as it does in a transformer, and the exact one is a sum over tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import torch

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.guidance import weights
from sdvar_exp.decoding.noise import LIMIT, NoiseBook, Stream, philox4x32
from sdvar_exp.models.cache import KVCache
from sdvar_exp.pyramid import Pyramid

V = 4


class Line(Pyramid):
    """Stages of as many tokens as their side, not its square."""

    @cached_property
    def lengths(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.patch_nums


PYRAMID = Line((1, 2, 3))
S, L = PYRAMID.stages, PYRAMID.total
CONTEXTS = [V ** PYRAMID.offsets[k] for k in range(S)]  # prefixes of each stage


def context(codes_BL: torch.Tensor, stage: int) -> torch.Tensor:
    """Number of the codes before a stage, (B,)."""
    return sum((codes_BL[:, i] * V**i for i in range(PYRAMID.offsets[stage])), torch.zeros_like(codes_BL[:, 0]))


@dataclass
class Tables:
    """Logits of one model: own[half][k] (contexts, L_k, V) and cross[half][k][j] (contexts of j, V), half 1: null class."""

    own: list[list[torch.Tensor]]
    cross: list[list[list[torch.Tensor]]]

    @classmethod
    def drawn(cls, seed: int) -> Tables:
        g = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return 1.2 * torch.randn(*shape, generator=g, dtype=torch.float64)

        own = [[draw(CONTEXTS[k], PYRAMID.lengths[k], V) for k in range(S)] for _ in range(2)]
        return cls(own, [[[draw(CONTEXTS[j], V) for j in range(S)] for _ in range(S)] for _ in range(2)])

    def mixed(self, other: Tables, share: float) -> Tables:
        """These tables moved towards other ones."""

        def mix(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (1 - share) * a + share * b

        own = [[mix(a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(self.own, other.own, strict=True)]
        cross = [
            [[mix(a, b) for a, b in zip(u, v, strict=True)] for u, v in zip(x, y, strict=True)]
            for x, y in zip(self.cross, other.cross, strict=True)
        ]
        return Tables(own, cross)

    def at(self, half: int, stage: int, before: int) -> np.ndarray:
        """Logits (L_k, V) of a stage after the codes number `before`, every row seeing the stages before its own."""
        out = self.own[half][stage][before]
        for j in range(stage):
            out = out + self.cross[half][stage][j][before % CONTEXTS[j]]
        return out.numpy()


class ToyQuantizer:
    """f̂ is the codes themselves, (B, L), unknown ones 0."""

    def __init__(self) -> None:
        self.embedding = SimpleNamespace(weight=torch.tensor([[0.0], [1.0], [2.5], [4.5]]))

    def empty(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, L, dtype=torch.int64)

    def code_map(self, stage: int, tokens_Bl: torch.Tensor) -> torch.Tensor:
        return tokens_Bl

    def contribution(self, stage: int, tokens_Bl: torch.Tensor) -> torch.Tensor:
        out = self.empty(len(tokens_Bl))
        out[:, PYRAMID.rows(stage, stage + 1)] = tokens_Bl
        return out

    def accumulate(self, stage: int, tokens_Bl: torch.Tensor, f_hat_BL: torch.Tensor) -> torch.Tensor:
        return f_hat_BL + self.contribution(stage, tokens_Bl)

    def next_input(self, stage: int, f_hat_BL: torch.Tensor) -> torch.Tensor:
        """Rows (B, L_k, 3): stage, place in the stage, number of the codes before."""
        rows = torch.empty(len(f_hat_BL), PYRAMID.lengths[stage], 3, dtype=torch.float64)
        rows[..., 0], rows[..., 1] = stage, torch.arange(PYRAMID.lengths[stage])
        rows[..., 2] = context(f_hat_BL, stage)[:, None]
        return rows


class ToyModel:
    """What `ModelSession` needs of a transformer. A row reads, in the cache, the first one of every stage it sees."""

    dtype, device, vocab_size, num_classes, pyramid = torch.float64, torch.device("cpu"), V, 1, PYRAMID
    capacity = L

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def new_cache(self, batch: int) -> KVCache:
        return KVCache(1, batch, 1, self.capacity, 3, self.dtype, self.device)

    def condition(self, labels_N: torch.Tensor) -> SimpleNamespace:
        whole = SimpleNamespace(class_NC=labels_N[:, None])
        whole.narrow = lambda rows: SimpleNamespace(class_NC=labels_N[rows, None])
        return whole

    def first_rows(self, class_NC: torch.Tensor) -> torch.Tensor:
        return ToyQuantizer().next_input(0, torch.zeros(len(class_NC), L, dtype=torch.int64))

    def stage_rows(self, first: int, input_Bqc: torch.Tensor, stop: int) -> torch.Tensor:
        return input_Bqc

    def __call__(
        self,
        x: torch.Tensor,
        condition: SimpleNamespace,
        cache: KVCache,
        mask: torch.Tensor | None,
        rows: slice,
        spans: object = None,
    ) -> torch.Tensor:
        cache.slots(0, rows, x.shape[1])[0].copy_(x[:, None])
        seen = cache.view(0, rows, x.shape[1])[0][:, 0]
        null = condition.class_NC[:, 0] == self.num_classes
        out = torch.empty(len(x), x.shape[1], V, dtype=self.dtype)
        for half in (0, 1):
            mine = (null == bool(half)).nonzero()[:, 0]
            if not len(mine):
                continue
            one = slice(int(mine[0]), int(mine[-1]) + 1)  # a half is contiguous
            for i in range(x.shape[1]):
                stage, place = (int(v) for v in x[0, i, :2])
                logits = self.tables.own[half][stage][x[one, i, 2].long(), place]
                for r in range(seen.shape[1]):
                    other = int(seen[0, r, 0])
                    visible = mask is None or bool(mask[i, r])
                    if visible and other != stage and seen[0, r, 1] == 0:
                        logits = logits + self.tables.cross[half][stage][other][seen[one, r, 2].long()]
                out[one, i] = logits
        return out


class ToyPair:
    """Stands in for `Pair`."""

    name, num_classes, pyramid = "toy", 1, PYRAMID

    def __init__(self, seed: int = 20, distance: float = 0.6) -> None:
        target = Tables.drawn(seed)
        self.draft, self.target = ToyModel(target.mixed(Tables.drawn(seed + 1), distance)), ToyModel(target)
        self.vae = SimpleNamespace(quantize=ToyQuantizer())


# --- the exact distribution ----------------------------------------------------------------------------------------------


def distribution(logits_lV: np.ndarray, temperature: float = 1.0, top_k: int = 0, top_p: float = 0.0) -> np.ndarray:
    """Softmax after ÷ temperature, top-k, top-p, written out once more; without ties."""
    p = np.exp(logits_lV / temperature - np.max(logits_lV / temperature, axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    for row in p:
        order = np.argsort(row)
        if top_k:
            row[order[:-top_k]] = 0
            row /= row.sum()
        if top_p:
            row[order[:-1][np.cumsum(row[order])[:-1] <= 1 - top_p]] = 0
            row /= row.sum()
    return p


def exact(pair: ToyPair, cell: Cell) -> np.ndarray:
    """Probability of each of the V^L images when the target samples alone, (V^L,); image Σ code_i·V^i."""
    t = weights(cell.cfg_schedule, S)
    s = cell.sampling
    out = np.ones(V**L)
    number = np.arange(V**L)
    for k in range(S):
        per_context = np.stack(
            [
                distribution(
                    (1 + t[k]) * pair.target.tables.at(0, k, c) - t[k] * pair.target.tables.at(1, k, c),
                    s.temperature,
                    s.top_k,
                    s.top_p,
                )
                for c in range(CONTEXTS[k])
            ]
        )
        for i in range(PYRAMID.lengths[k]):
            out *= per_context[number % CONTEXTS[k], i, number // V ** (PYRAMID.offsets[k] + i) % V]
    return out


def images(tokens_BL: torch.Tensor) -> np.ndarray:
    """How often each image was drawn, (V^L,)."""
    place = torch.tensor([V**i for i in range(L)])
    return torch.bincount((tokens_BL * place).sum(dim=1), minlength=V**L).numpy()


# --- many units at once --------------------------------------------------------------------------------------------------


class Noise(NoiseBook):
    """The noise of many units with label 0, made for all of them at once; equal to `NoiseBook`'s (a test)."""

    def __init__(self, units: Sequence[Unit]) -> None:
        super().__init__(PYRAMID, V, units)
        self.seeds = np.array([u.seed for u in units], dtype=np.uint64)

    def _uniforms(
        self, stream: Stream, stage: int, codes: int, first: int = 0, more: int = 0, seeds: np.ndarray | None = None
    ) -> np.ndarray:
        seeds = self.seeds if seeds is None else seeds
        place = np.arange(PYRAMID.lengths[stage] + more, dtype=np.uint64)[None, :, None]
        blocks = np.arange(first // 4, first // 4 - (-codes // 4), dtype=np.uint64)[None, None, :]
        key = (np.uint64(0), seeds[:, None, None])
        words = philox4x32((blocks, place, np.uint64(stage), np.uint64(stream)), key)  # type: ignore[arg-type]
        return (np.stack(words, axis=-1).reshape(len(seeds), place.size, -1)[..., :codes] + 0.5) / LIMIT

    def attempts(self, stage: int, first: int, count: int, images: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(self._uniforms(Stream.residual, stage, count, first, 1, self.seeds[list(images)]))

    def gumbel(self, stream: Stream, stage: int) -> torch.Tensor:
        if (stream, stage) not in self._kept:
            u = self._uniforms(stream, stage, V)
            self._kept[stream, stage] = torch.from_numpy((-np.log(-np.log(u))).astype(np.float32))
        return self._kept[stream, stage]

    def uniform(self, stage: int) -> torch.Tensor:
        if (Stream.accept, stage) not in self._kept:
            self._kept[Stream.accept, stage] = torch.from_numpy(self._uniforms(Stream.accept, stage, 1)[..., 0])
        return self._kept[Stream.accept, stage]

    def select(self, rows: np.ndarray) -> Noise:
        """The noise of some of the units."""
        out = Noise([self.units[i] for i in rows])
        out._kept = {key: value[rows] for key, value in self._kept.items()}
        return out


@torch.inference_mode()
def in_bulk(pair: ToyPair, cell: Cell, noise: Noise, batch: int = 1) -> torch.Tensor:
    """Tokens (units, L), each `batch` consecutive units decoded as though they were a batch of their own.

    A decoder advances all its units by the least of them. So units are decoded together only if their batches pass and fail
    at the same stages: where they do not, the two sides are decoded again, apart.
    """
    d = Decoder(pair, cell, noise.units, noise)  # type: ignore[arg-type]
    cell.strategy.entry.function(cell.strategy.params, d)
    for past in d.rounds:
        for k in range(past.first, past.first + len(past.stage_passed)):
            passed = d.judged[k].verdict.passed_B.view(-1, batch).all(dim=1)
            if passed.any() and not passed.all():
                out = torch.empty(len(noise.units), L, dtype=torch.int64)
                for side in (passed, ~passed):
                    rows = side.repeat_interleave(batch).nonzero()[:, 0].numpy()
                    out[rows] = in_bulk(pair, cell, noise.select(rows), batch)
                return out
    return torch.cat(d.tokens, dim=1)
