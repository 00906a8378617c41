"""One model inside one decode: cache, modulations, guidance and counters.

Knows how to feed the rows of any run of stages and to guide the logits; knows nothing of proposals or acceptance.
A session whose cache lacks stages (after a bonus, a hand-off, a rollback) feeds them in the same forward, but for those that
were left out of it for good (`leave_out`): later rows then do not see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from sdvar_exp.decoding.masks import materialise, spans
from sdvar_exp.models.cache import KVCache
from sdvar_exp.models.layers import Spans
from sdvar_exp.models.var import VAR
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import Choice, choose


@dataclass(frozen=True)
class Forward:
    """One forward of a model, as an observer is told of it afterwards.

    first, stop: stages whose rows were fed. x_NqC: the rows. mask_qK: attention, None for all. batch_rows: which rows of the
    doubled batch were fed. before, after: rows in the cache. logits_NqV: of every row, before guidance. branches: stage of
    each further copy of a stage, whose rows stand behind those of first … stop-1.
    """

    first: int
    stop: int
    x_NqC: torch.Tensor
    mask_qK: torch.Tensor | None
    batch_rows: slice
    before: int
    after: int
    logits_NqV: torch.Tensor
    branches: tuple[int, ...] = ()


Branch = tuple[int, torch.Tensor]
"""One more copy of a stage's rows in a pass: the stage, and the f̂ after the stage before that they are built from."""


class ModelSession:
    """The stages < `stage` are cached, or left out for good; `f_hats[k]` given to a pass is f̂ after stage k.

    Args:
        model: draft or target transformer.
        next_input: (stage, f̂) → rows of that stage before the word embedding, (B, L_k, c).
        labels_B: int64 labels.
        weights: guidance weight t_k of every stage.
    """

    def __init__(
        self,
        model: VAR,
        next_input: Callable[[int, torch.Tensor], torch.Tensor],
        labels_B: torch.Tensor,
        weights: Sequence[float],
    ) -> None:
        self.model, self.next_input = model, next_input
        self.batch = len(labels_B)
        self.weights, self.both_until = tuple(weights), _both_until(weights)
        self._labels = self._with_null(labels_B) if self.both_until else labels_B
        self.condition = model.condition(self._labels)
        self.cache = model.new_cache(len(self._labels))
        self.stage = self.null_stage = 0
        self.left_out: frozenset[int] = frozenset()
        self.shares = False  # the cache is another session's
        self.hidden: dict[int, torch.Tensor] | None = None  # last hidden rows of the cached stages, where somebody reads them
        self.calls = self.rows = 0
        # first stage, stop, halves, stages < stop left out, stages of branches
        self.passes: list[tuple[int, int, int, tuple[int, ...], tuple[int, ...]]] = []
        self.observer: Callable[[ModelSession, Forward], None] | None = None

    @property
    def pyramid(self) -> Pyramid:
        return self.model.pyramid

    def use(self, weights: Sequence[float], both_until: int | None = None) -> None:
        """Guide from now on with these weights. Where none did so far, the cache gets room for unconditional rows.

        both_until: stages before this one are fed both halves; by default those up to the last with a weight.
        """
        self.weights, self.both_until = tuple(weights), _both_until(weights) if both_until is None else both_until
        if self.both_until and len(self._labels) == self.batch:
            self._labels = self._with_null(self._labels)
            self.condition = self.model.condition(self._labels)
            wide = self.model.new_cache(len(self._labels))
            wide.kv[:, :, : self.batch] = self.cache.kv
            wide.advance(self.cache.length)
            self.cache, self.shares = wide, False

    def share(self, other: ModelSession) -> None:
        """Read and write the cache of a model that has this one's blocks as its first, from where it stands.

        What is written behind its rows is scratch there: its next pass writes the same places.
        """
        self.cache = KVCache.over(other.cache.kv[: self.model.depth], other.cache.length)
        self.stage, self.null_stage, self.left_out, self.shares = other.stage, other.null_stage, other.left_out, True
        if len(self._labels) != len(other._labels):
            self._labels = other._labels
            self.condition = self.model.condition(self._labels)

    def halves(self, stage: int) -> int:
        """Guidance halves fed at a stage: 2 while any stage from here on is guided."""
        return 2 if stage < self.both_until else 1

    def count(self, first: int, stop: int) -> int:
        """Rows of the stages first … stop-1 that are not left out."""
        return sum(self.pyramid.lengths[k] for k in range(first, stop) if k not in self.left_out)

    def leave_out(self, stages: Iterable[int]) -> None:
        """Never feed the rows of these stages, none of which is cached."""
        more = frozenset(stages)
        if any(k < self.stage for k in more - self.left_out):
            raise ValueError(f"stages {sorted(more)} cannot be left out of a cache that has the stages < {self.stage}")
        even = self.null_stage == self.stage
        self.left_out |= more
        self.stage = self._next(self.stage)
        self.null_stage = self.stage if even else self.null_stage

    def logits(
        self,
        f_hats: Sequence[torch.Tensor],
        stop: int,
        want: int,
        mask: Choice | None = None,
        mask_from: int = 0,
        branches: Sequence[Branch] = (),
    ) -> list[torch.Tensor]:
        """Feed every stage from the cache's end to stop-1 in one forward and keep the rows.

        Args:
            f_hats: f̂ after stage 0, 1, …; at least stop-1 of them.
            want: first stage whose logits are needed.
            mask: attention of the fed stages ≥ mask_from; earlier (recomputed) ones and None are block-causal.
            branches: more copies of stages ≥ want in the same forward, built from another f̂. Their rows see the stages before
                and themselves; nothing else sees them, and the cache does not keep them (but see `adopt`).
        Returns:
            guided logits (B, L_k, V) of the stages want … stop-1, then of the branches.
        """
        if mask is not None and mask.entry.meta.get("feeds") == "entry":
            if self.stage:
                raise ValueError(f"{mask.name} needs an empty cache")
            self.leave_out(range(stop - 1))
            want = stop - 1
        out = self.raw(f_hats, stop, want, mask, mask_from, branches)
        lengths, copies = self.pyramid.lengths[want:stop], [self.pyramid.lengths[k] for k, _ in branches]
        if len(out) == self.batch:
            return list(out.split([*lengths, *copies], dim=1))
        chain, *others = out.split([sum(lengths), *copies], dim=1)
        guided = list(self._guide(chain, want, stop).split(lengths, dim=1))
        return guided + [self._guide(x, k, k + 1) for x, (k, _) in zip(others, branches, strict=True)]

    def adopt(self, number: int, images: Sequence[int]) -> None:
        """Put the rows of a branch of the last pass in the place of those of its stage, for some images of the batch."""
        stages = self.passes[-1][-1]
        source = self.cache.length + sum(self.pyramid.lengths[k] for k in stages[:number])
        k, halves = stages[number], range(0, len(self._labels), self.batch)
        self.cache.move([half + i for half in halves for i in images], source, self.count(0, k), self.pyramid.lengths[k])

    def raw(
        self,
        f_hats: Sequence[torch.Tensor],
        stop: int,
        want: int,
        mask: Choice | None = None,
        mask_from: int = 0,
        branches: Sequence[Branch] = (),
    ) -> torch.Tensor:
        """As `logits`, before guidance: (B, rows, V), or (2B, rows, V) with the unconditional half below."""
        start = self.stage
        halves = self.halves(start)
        if halves == 2:
            self._fill_null(f_hats)
        seen = None
        if mask is not None or stop - start > 1 or branches:
            copies = tuple(k for k, _ in branches)
            seen = self._seen(mask or _block_causal(), max(start, mask_from), stop, start, copies)
        out = self._forward(start, stop, f_hats, slice(0, halves * self.batch), seen, branches)
        self.stage = stop
        if halves == 2:
            self.null_stage = stop
        return out[:, self.count(start, want) :]

    def keep_hidden(self) -> dict[int, torch.Tensor]:
        """Keep the last hidden rows (N, L_k, C) of stages that are fed from now on, by stage, while they are cached."""
        self.hidden = {} if self.hidden is None else self.hidden
        return self.hidden

    def truncate(self, stage: int) -> None:
        """Forget the rows of the stages from `stage` on. Copies nothing."""
        for k in [k for k in self.hidden or () if k >= stage]:
            del self.hidden[k]  # type: ignore[union-attr]
        if stage < self.stage:
            self.stage = self._next(stage)
            self.null_stage = min(self.null_stage, self.stage)
            self.cache.truncate(self.count(0, self.stage))

    def _with_null(self, labels_B: torch.Tensor) -> torch.Tensor:
        return torch.cat((labels_B, torch.full_like(labels_B, self.model.num_classes)))

    def _next(self, stage: int) -> int:
        """The first stage from here on that is not left out."""
        while stage in self.left_out:
            stage += 1
        return stage

    def _fill_null(self, f_hats: Sequence[torch.Tensor]) -> None:
        """Feed the unconditional rows that an unguided stretch left out, in one merged pass (counted)."""
        first, stop = self.null_stage, self.stage
        if first == stop:
            return
        self.cache.truncate(self.count(0, first))
        seen = self._seen(_block_causal(), first, stop, first)
        self._forward(first, stop, f_hats, slice(self.batch, 2 * self.batch), seen)
        self.null_stage = stop

    def _seen(self, mask: Choice, first: int, stop: int, fed: int, branches: tuple[int, ...] = ()) -> Seen:
        return Seen(mask, self.pyramid, first, stop, fed, self.left_out, branches)

    def _forward(
        self,
        first: int,
        stop: int,
        f_hats: Sequence[torch.Tensor],
        rows: slice,
        seen: Seen | None,
        branches: Sequence[Branch] = (),
    ) -> torch.Tensor:
        x, copies = self._embed(first, stop, f_hats, rows), tuple(k for k, _ in branches)
        if copies:
            x = torch.cat((x, *(self._copy(k, f_hat, rows) for k, f_hat in branches)), dim=1)
            self.cache = self.cache.room(x.shape[1])
        mask, runs = seen.attention(x.device) if seen else (None, None)
        whole = rows.start == 0 and rows.stop == len(self._labels)
        condition = self.condition if whole else self.condition.narrow(rows)
        before = self.cache.length
        if self.hidden is None:
            logits: torch.Tensor = self.model(x, condition, self.cache, mask, rows, runs)
        else:
            parts = list[torch.Tensor]()
            logits = self.model(x, condition, self.cache, mask, rows, runs, hidden=parts)
            fed = [k for k in range(first, stop) if k not in self.left_out] if rows.start == 0 else []
            lengths = [self.pyramid.lengths[k] for k in (*fed, *copies)]
            self.hidden.update(zip(fed, torch.cat(parts).split(lengths, dim=1) if fed else (), strict=False))
        self.cache.advance(x.shape[1] - sum(self.pyramid.lengths[k] for k in copies))
        self.calls += 1
        left_out = tuple(sorted(k for k in self.left_out if k < stop))
        self.passes.append((first, stop, (rows.stop - rows.start) // self.batch, left_out, copies))
        self.rows += x.shape[1] * (rows.stop - rows.start) // self.batch
        if self.observer is not None:
            self.observer(self, Forward(first, stop, x, mask, rows, before, self.cache.length, logits, copies))
        return logits if logits.dtype == torch.float64 else logits.float()

    def _copy(self, stage: int, f_hat: torch.Tensor, rows: slice) -> torch.Tensor:
        """Input rows of one stage ≥ 1 built from this f̂, for the given batch rows, (N, L_k, C)."""
        maps = self.next_input(stage, f_hat).to(self.model.dtype)
        return self.model.stage_rows(stage, maps, stage + 1).repeat((rows.stop - rows.start) // self.batch, 1, 1)

    def _embed(self, first: int, stop: int, f_hats: Sequence[torch.Tensor], rows: slice) -> torch.Tensor:
        """Input rows of the stages first … stop-1 for the given batch rows, (N, q, C)."""
        copies = (rows.stop - rows.start) // self.batch
        parts = []
        for a, b in runs([k for k in range(first, stop) if k not in self.left_out]):
            if a == 0:
                parts.append(self.model.first_rows(self.condition.class_NC[rows]))
            if b > 1:
                later = range(max(a, 1), b)
                maps = torch.cat([self.next_input(k, f_hats[k - 1]) for k in later], dim=1).to(self.model.dtype)
                parts.append(self.model.stage_rows(later.start, maps, b).repeat(copies, 1, 1))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _guide(self, logits_NqV: torch.Tensor, first: int, stop: int) -> torch.Tensor:
        """(1+t)·cond - t·uncond with the t of each row's own stage, as one pass: from uncond, 1+t of the way to cond."""
        cond, null = logits_NqV.split(self.batch)
        if stop - first == 1:
            return torch.lerp(null, cond, 1 + self.weights[first])
        return torch.lerp(null, cond, per_row(self.weights, self.pyramid, first, stop, cond.dtype, cond.device))


def _both_until(weights: Sequence[float]) -> int:
    """One behind the last stage that is guided: the unconditional rows before it are needed in the cache."""
    return max((k + 1 for k, t in enumerate(weights) if t), default=0)


def runs(stages: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending stages as runs without gaps, (first, stop) each."""
    starts = [i for i, k in enumerate(stages) if i == 0 or stages[i - 1] != k - 1]
    return [(stages[a], stages[b - 1] + 1) for a, b in zip(starts, [*starts[1:], len(stages)], strict=True)]


@lru_cache(maxsize=1)
def _block_causal() -> Choice:
    return choose("mask", "block_causal")


@lru_cache(maxsize=4096)
def per_row(
    weights: tuple[float, ...], pyramid: Pyramid, first: int, stop: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """1 + t of every row of the stages first … stop-1, (1, rows, 1); made once per process, so nothing is copied later."""
    rows = [1 + weights[k] for k in range(first, stop) for _ in range(pyramid.lengths[k])]
    return torch.tensor(rows, dtype=dtype, device=device)[None, :, None]


@dataclass(frozen=True)
class Seen:
    """Attention of the rows of a pass: a mask for the stages first … stop-1, the stages fed … first-1 block-causal.

    left_out: stages that are neither fed nor cached. branches: stages of further copies behind the rows of the pass; a copy
    sees the stages before its own, and itself (a tree).
    """

    mask: Choice
    pyramid: Pyramid
    first: int
    stop: int
    fed: int
    left_out: frozenset[int]
    branches: tuple[int, ...] = ()

    @lru_cache(maxsize=4096)  # noqa: B019 (of a frozen value; bounded)
    def attention(self, device: torch.device) -> tuple[torch.Tensor | None, Spans | None]:
        """The mask as a bool tensor (None: all columns) and as runs, both made once per process and device."""
        matrix = materialise(self.mask, self.pyramid, self.first, self.stop, self.fed)
        if self.left_out:
            there = np.isin(self.pyramid.stage_of[: matrix.shape[1]], list(self.left_out), invert=True)
            matrix = matrix[there[-len(matrix) :]][:, there]
        if self.branches:
            matrix = self._tree(matrix)
        if matrix.all():
            return None, None
        return torch.tensor(matrix, device=device), spans(matrix, self.pyramid.stages)

    def _tree(self, matrix: np.ndarray) -> np.ndarray:
        """The mask with the rows and columns of the branches behind those of the pass."""
        stage = [k for k in self.pyramid.stage_of[: self.pyramid.offsets[self.stop]] if k not in self.left_out]
        lengths = [self.pyramid.lengths[k] for k in self.branches]
        row, column = matrix.shape
        out = np.zeros((row + sum(lengths), column + sum(lengths)), dtype=bool)
        out[:row, :column] = matrix
        for k, n in zip(self.branches, lengths, strict=True):
            out[row : row + n, : matrix.shape[1]] = np.asarray(stage) < k
            out[row : row + n, column : column + n] = True
            row, column = row + n, column + n
        return out
