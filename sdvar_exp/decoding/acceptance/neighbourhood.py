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
    distance = torch.cdist(chosen.flatten(0, 1), codebook_Vc.double()).view(*tokens_Bl.shape, -1)
    distance = distance.scatter(-1, tokens_Bl[..., None], torch.inf)
    return distance.argsort(dim=-1, stable=True)[..., : min(k, len(codebook_Vc) - 1)]


@register("acceptance", "neighbourhood", Neighbourhood, streams=(ACCEPT, RESIDUAL))
def neighbourhood(rule: Neighbourhood, view: StageView) -> Verdict:
    """LANTERN (arXiv 2410.03355): U < min(1, (p(x)+Σ_A p)/q(x)), A the longest run of x's k nearest codes with Σ_A p ≤ δ."""
    from sdvar_exp.decoding.evidence import by_token

    near = nearest_codes(view.codebook, view.draft_tokens_Bl, rule.k)
    p = view.probability(view.draft_tokens_Bl, view.p)
    if near.shape[-1]:
        runs = view.p.gather(-1, near).cumsum(dim=-1)
        p = p + runs.masked_fill(runs > rule.delta, 0).amax(dim=-1)
    q = view.probability(view.draft_tokens_Bl, view.q)
    return by_token(view, view.uniform_Bl() * q < p)
