"""From guided logits to tokens: ÷ temperature, top-k, top-p, Gumbel-max. Nothing is edited in place.

Thresholds and ties are those of VAR's sampler: top-k keeps every logit that is not below the k-th largest; top-p removes
the ascending prefix whose cumulated probability is ≤ 1 - p and always keeps the largest.
"""

from __future__ import annotations

import torch

from sdvar_exp.cell import Sampling

NEAR_TIE, NEAR_TIE_64 = 1e-4, 1e-11  # see `near_tie`
SORTED_WHOLE = 1024  # fewer codes are sorted at once
ROUNDING = 4e-5  # relative error of a float32 softmax and its cumulated sum: V/16 additions in a lane, 6e-8 each, doubled


def process(logits_BlV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits of the distribution that is sampled from, removed codes at -inf; (B, l, V), float32 at least."""
    x = logits_BlV if logits_BlV.dtype == torch.float64 else logits_BlV.float()
    if sampling.temperature != 1:
        x = x / sampling.temperature
    if 0 < sampling.top_k < x.shape[-1]:
        kth = x.topk(sampling.top_k, dim=-1).values[..., -1:]
        x = x.masked_fill(x < kth, -torch.inf)
    return nucleus(x, sampling.top_p) if 0 < sampling.top_p < 1 else x


def nucleus(x_BlV: torch.Tensor, p: float) -> torch.Tensor:
    """Top-p. On a CPU and for many codes from the largest quarter alone; a row where that is not certain is sorted whole.

    It is certain if the quarter holds the mass p, the edge falls between two different logits, and no cumulated mass lies
    so near to p that the rounding of `sorted_nucleus` could decide otherwise. (On CUDA a sort is cheap and a test for
    certainty would wait for the device.)
    """
    codes = x_BlV.shape[-1]
    if x_BlV.device.type != "cpu" or codes < SORTED_WHOLE:
        return sorted_nucleus(x_BlV, p)
    head = x_BlV.topk(codes // 4, dim=-1).values
    total = (x_BlV - head[..., :1]).exp().sum(dim=-1, keepdim=True, dtype=torch.float64)
    mass = (head - head[..., :1]).exp().double() / total
    before = mass.cumsum(dim=-1) - mass  # of the larger codes
    count = (before < p).sum(dim=-1, keepdim=True)
    last, following = head.gather(-1, count - 1), head.gather(-1, count.clamp_max(head.shape[-1] - 1))
    certain = (last > following) & ((before - p).abs().amin(dim=-1, keepdim=True) > ROUNDING * (1 - p))
    out, doubtful = x_BlV.masked_fill(x_BlV < last, -torch.inf), ~certain[..., 0]
    if doubtful.any():
        out[doubtful] = sorted_nucleus(x_BlV[doubtful], p)
    return out


def sorted_nucleus(x_NV: torch.Tensor, p: float) -> torch.Tensor:
    """Top-p as VAR does it: sort ascending, cumulate, remove the prefix of mass ≤ 1 - p."""
    ordered, index = x_NV.sort(dim=-1, stable=True)
    remove = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    remove[..., -1] = False
    return x_NV.masked_fill(remove.scatter(-1, index, remove), -torch.inf)


def gumbel_argmax(processed_BlV: torch.Tensor, g_BlV: torch.Tensor) -> torch.Tensor:
    """argmax(processed + g), the lowest index on ties; (B, l) int64."""
    return (processed_BlV + g_BlV).argmax(dim=-1)


def sample_gap(processed_BlV: torch.Tensor, g_BlV: torch.Tensor) -> torch.Tensor:
    """Gap between the best and the second perturbed logit, (B, l); +inf where one code is left."""
    best = (processed_BlV + g_BlV).topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]


def margin(logits_BlV: torch.Tensor, g_BlV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Distance of each sampled token from being another one, (B, l), in logits (top-p edges: in probability).

    The least of: the gap between the best and the second perturbed logit; how far the winner is from being removed; how
    far any removed code that would have won is from being kept. Below `near_tie` rounding may give another token.
    """
    scores = process(logits_BlV, sampling) + g_BlV
    best = scores.topk(2, dim=-1).values
    gap = best[..., 0] - best[..., 1]
    if not cuts(sampling, scores.shape[-1]):
        return gap
    scaled = process(logits_BlV, Sampling(temperature=sampling.temperature))
    rival = scores.isneginf() & (scaled + g_BlV > best[..., :1] - NEAR_TIE)
    winner = torch.zeros_like(rival).scatter(-1, scores.argmax(dim=-1, keepdim=True), True)
    return torch.minimum(gap, cut_edges(logits_BlV, sampling).masked_fill(~(winner | rival), torch.inf).amin(dim=-1))


def near_tie(dtype: torch.dtype) -> float:
    """The margin below which rounding may decide otherwise in another batch or a merged pass, in logits or probability."""
    return NEAR_TIE_64 if dtype == torch.float64 else NEAR_TIE


def rounding(dtype: torch.dtype) -> float:
    """Slack of a threshold that exact arithmetic meets exactly, such as a cumulated mass of 1: over any rounding."""
    return 1e-10 if dtype == torch.float64 else 1e-6


def cuts(sampling: Sampling, codes: int) -> bool:
    """Whether top-k or top-p may remove one of `codes` codes."""
    return 0 < sampling.top_k < codes or 0 < sampling.top_p < 1


def cut_edges(logits_BlV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Distance of each code from crossing a cut (a kept one removed, a removed one kept), (B, l, V), as in `margin`."""
    scaled = process(logits_BlV, Sampling(temperature=sampling.temperature))
    kept = process(logits_BlV, sampling).isfinite()
    smallest = scaled.masked_fill(~kept, torch.inf).amin(dim=-1, keepdim=True)
    largest = scaled.masked_fill(kept, -torch.inf).amax(dim=-1, keepdim=True)
    if 0 < sampling.top_k < scaled.shape[-1]:  # codes that tie with the k-th are kept by equality alone
        largest = torch.maximum(largest, scaled.topk(sampling.top_k + 1, dim=-1).values[..., -1:])
    edges = torch.where(kept, scaled - largest, smallest - scaled)
    return torch.minimum(edges, _mass_edge(scaled, sampling))


def support_edge(logits_BlV: torch.Tensor, tokens_Bl: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Distance of a cut from changing the probabilities of the given tokens noticeably, (B, l).

    The least edge of the token's own code and of every code that weighs at least half of `NEAR_TIE`.
    """
    if not cuts(sampling, logits_BlV.shape[-1]):
        return torch.full(tokens_Bl.shape, torch.inf, dtype=torch.float64, device=tokens_Bl.device)
    weight = process(logits_BlV, Sampling(temperature=sampling.temperature)).softmax(dim=-1)
    counts = (weight >= NEAR_TIE / 2).scatter(-1, tokens_Bl[..., None], True)
    return cut_edges(logits_BlV, sampling).masked_fill(~counts, torch.inf).amin(dim=-1).double()


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
