"""Relaxed speculative sampling over neighbouring codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    import torch

    from sdvar_exp.decoding.evidence import StageView, Verdict

ACCEPT, RESIDUAL = 2, 3  # noise streams that the rule reads


@dataclass(frozen=True)
class Neighbourhood:
    """k: nearest codes of the proposed code that may lend it probability; delta: how much they may lend in all."""

    k: int = 10
    delta: float = 0.2

    def __post_init__(self) -> None:
        require(self.k >= 0, f"acceptance.k must be ≥ 0, got {self.k}")
        require(0 <= self.delta <= 1, f"acceptance.delta must lie in [0, 1], got {self.delta}")


def nearest_codes(codebook_Vc: torch.Tensor, tokens_Bl: torch.Tensor, k: int) -> torch.Tensor:
    """The k codes nearest to each token's code (Euclidean, itself left out, nearest first), (B, l, k)."""
    import torch

    chosen = codebook_Vc[tokens_Bl].double()
    # pair by pair, since a matrix product would round by the number of tokens and could reorder codes at equal distance
    pairwise = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(chosen.flatten(0, 1), codebook_Vc.double(), compute_mode=pairwise).view(*tokens_Bl.shape, -1)
    distance = distance.scatter(-1, tokens_Bl[..., None], torch.inf)
    return distance.argsort(dim=-1, stable=True)[..., : min(k, len(codebook_Vc) - 1)]


@register("acceptance", "neighbourhood", Neighbourhood, streams=(ACCEPT, RESIDUAL))
def neighbourhood(rule: Neighbourhood, view: StageView) -> Verdict:
    """LANTERN (arXiv 2410.03355): U < min(1, (p(x)+Σ_A p)/q(x)), A the longest run of x's k nearest codes with Σ_A p ≤ δ."""
    import torch

    from sdvar_exp.decoding.evidence import by_token, log_distance
    from sdvar_exp.decoding.sampling import near_tie, rounding

    near = nearest_codes(view.codebook, view.draft_tokens_Bl, rule.k)
    p = view.probability(view.draft_tokens_Bl, view.p)
    lent = view.p.gather(-1, near).double().cumsum(dim=-1)
    # a mass of 1 is the whole distribution, whatever its sum rounds to
    limit = torch.inf if rule.delta == 1 else rule.delta * (1 + rounding(view.p.dtype))

    def with_run(limit: float) -> torch.Tensor:
        runs = lent.masked_fill(lent > limit, 0)
        return p + runs.amax(dim=-1) if runs.shape[-1] else p

    bar = view.uniform_Bl() * view.probability(view.draft_tokens_Bl, view.q)
    relaxed, step = with_run(limit), near_tie(view.p.dtype)

    def edge() -> torch.Tensor:
        turns = (bar < with_run(limit - step)) != (bar < with_run(limit + step))  # the end of the run decides
        return log_distance(bar, relaxed).masked_fill(turns, 0)

    return by_token(view, bar < relaxed, edge)
