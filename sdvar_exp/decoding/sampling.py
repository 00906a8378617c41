"""From guided logits to tokens: ÷ temperature, top-k, top-p, Gumbel-max. Nothing is edited in place.

Thresholds and ties are those of VAR's sampler: top-k keeps every logit that is not below the k-th largest; top-p removes
the ascending prefix whose cumulated probability is ≤ 1 - p and always keeps the largest.
"""

from __future__ import annotations

import torch

from sdvar_exp.cell import Sampling

NEAR_TIE = 1e-4


def process(logits_BlV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits of the distribution that is sampled from, removed codes at -inf; (B, l, V), float32 at least."""
    x = logits_BlV if logits_BlV.dtype == torch.float64 else logits_BlV.float()
    if sampling.temperature != 1:
        x = x / sampling.temperature
    if 0 < sampling.top_k < x.shape[-1]:
        kth = x.topk(sampling.top_k, dim=-1).values[..., -1:]
        x = x.masked_fill(x < kth, -torch.inf)
    if 0 < sampling.top_p < 1:
        ordered, index = x.sort(dim=-1, stable=True)
        remove = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        remove[..., -1] = False
        x = x.masked_fill(remove.scatter(-1, index, remove), -torch.inf)
    return x


def gumbel_argmax(processed_BlV: torch.Tensor, g_BlV: torch.Tensor) -> torch.Tensor:
    """argmax(processed + g), the lowest index on ties; (B, l) int64."""
    return (processed_BlV + g_BlV).argmax(dim=-1)


def margin(logits_BlV: torch.Tensor, g_BlV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """How far each sampled token is from being another one, (B, l), in logits (top-p edges: in probability).

    The least of: the gap between the best and the second perturbed logit; how far the winner is from being removed; how
    far any removed code that would have won is from being kept. Below `NEAR_TIE` rounding may give another token.
    """
    processed = process(logits_BlV, sampling)
    scores = processed + g_BlV
    best = scores.topk(2, dim=-1).values
    gap = best[..., 0] - best[..., 1]
    kept = processed.isfinite()
    if kept.all() and not 0 < sampling.top_p < 1:
        return gap
    scaled = process(logits_BlV, Sampling(temperature=sampling.temperature))
    rival = ~kept & (scaled + g_BlV > best[..., :1] - NEAR_TIE)
    winner = torch.zeros_like(kept).scatter(-1, scores.argmax(dim=-1, keepdim=True), True)
    edge = torch.minimum(_logit_edge(scaled, kept), _mass_edge(scaled, sampling))
    return torch.minimum(gap, edge.masked_fill(~(winner | rival), torch.inf).amin(dim=-1))


def _logit_edge(scaled_BlV: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Distance of a kept code to the largest removed one, of a removed code to the smallest kept one, (B, l, V)."""
    smallest = scaled_BlV.masked_fill(~kept, torch.inf).amin(dim=-1, keepdim=True)
    largest = scaled_BlV.masked_fill(kept, -torch.inf).amax(dim=-1, keepdim=True)
    return torch.where(kept, scaled_BlV - largest, smallest - scaled_BlV)


def _mass_edge(scaled_BlV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Distance of each code's cumulated probability to the top-p threshold, (B, l, V); +inf where that decides nothing."""
    if not 0 < sampling.top_p < 1:
        return torch.full_like(scaled_BlV, torch.inf)
    survivors = process(scaled_BlV, Sampling(top_k=sampling.top_k))
    ordered, index = survivors.sort(dim=-1, stable=True)
    distance = (ordered.softmax(dim=-1).cumsum(dim=-1) - (1 - sampling.top_p)).abs()
    distance[..., -1] = torch.inf  # the most probable code always stays
    distance = distance.masked_fill(ordered.isneginf(), torch.inf)  # removed by top-k already
    return torch.empty_like(distance).scatter(-1, index, distance)
