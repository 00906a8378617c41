"""Whole stages from the residual norm(max(0, P - Q)), P and Q products over independent tokens.

The sum over all stages is out of reach, so the residual is drawn by rejection: y ~ P is kept with probability
max(0, 1 - Q(y)/P(y)), else the next attempt is made. Attempt n reads its own uniforms, one for each token (inverse of the
cumulated p) and one for the decision, so the result does not depend on how attempts are grouped. All in log space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView

FIRST_BLOCK, LARGEST_BLOCK = 32, 2**18  # attempts of the first block; attempts × tokens of the largest one, an image
LIMIT = 2**18  # attempts; the last one is then taken as it is, which moves the distribution by less than 1 / (e · LIMIT)


@dataclass(frozen=True)
class StageDraw:
    """tokens_Bl: int64, the draft's where none were wanted. tries_B: attempts made, int64, 0 where none were wanted.

    edge_B: how far the draw lies from another one, in the unit of `sampling.margin`, float64; +inf unless asked for.
    """

    tokens_Bl: torch.Tensor
    tries_B: torch.Tensor
    edge_B: torch.Tensor


def draw_stage(view: StageView, wanted_B: torch.Tensor, edges: bool = False) -> StageDraw:
    """Draw the stage of each wanted image from the residual, attempts in blocks; waits for the device once a block.

    The expected number of attempts, over passes and failures, is at most 1: TV(P, Q) · 1/TV(P, Q).
    """
    tokens, length = view.draft_tokens_Bl.clone(), view.draft_tokens_Bl.shape[1]
    tries = torch.zeros_like(tokens[:, 0])
    edge = torch.full(tries.shape, torch.inf, dtype=torch.float64, device=tokens.device)
    rows = [i for i, wanted in enumerate(wanted_B.tolist()) if wanted]
    if not rows:
        return StageDraw(tokens, tries, edge)
    cumulated = view.log_p_BlV[rows].exp().cumsum(dim=-1)
    cumulated = cumulated / cumulated[..., -1:]
    log_ratio = view.log_ratio_BlV[rows]
    start, size, left = 0, FIRST_BLOCK, list(range(len(rows)))  # positions in `rows` that are still to be drawn
    while left:
        images = [rows[i] for i in left]
        u = view.noise.attempts(view.stage, start, size, images)  # (n, l + 1, attempts)
        steps = cumulated[left]
        y = torch.searchsorted(steps, u[:, :-1].contiguous(), right=True).clamp_max(steps.shape[-1] - 1)
        log_q_over_p = log_ratio[left].gather(-1, y).sum(dim=1)
        keep = u[:, -1] < -torch.expm1(log_q_over_p.clamp_max(0))  # nan, of a code that p lacks, is never kept
        if start + size >= LIMIT:
            keep[:, -1] = True
        found = keep.any(dim=1)
        at = torch.where(found, keep.int().argmax(dim=1), size - 1)
        tokens[images] = y.gather(-1, at[:, None, None].expand(-1, length, 1))[..., 0]
        tries[images] = start + at + 1
        if edges:
            distance = torch.minimum(_to_the_next(steps, y, u[:, :-1]), (log_q_over_p - (-u[:, -1]).log1p()).abs() / length)
            later = torch.arange(size, device=at.device) > at[:, None]
            edge[images] = torch.minimum(edge[images], distance.masked_fill(later, torch.inf).amin(dim=1))
        start, size = start + size, max(FIRST_BLOCK, min(2 * size, LARGEST_BLOCK // length // 4 * 4))
        left = [i for i, done in zip(left, found.tolist(), strict=True) if not done]
    return StageDraw(tokens, tries, edge)


def _to_the_next(steps_nlV: torch.Tensor, y_nlA: torch.Tensor, u_nlA: torch.Tensor) -> torch.Tensor:
    """Least distance over the tokens of each u from the ends of its step, (n, attempts)."""
    above = steps_nlV.gather(-1, y_nlA) - u_nlA
    below = u_nlA - steps_nlV.gather(-1, (y_nlA - 1).clamp_min(0))
    inner = torch.where(y_nlA > 0, torch.minimum(above, below), above)
    return inner.amin(dim=1)
