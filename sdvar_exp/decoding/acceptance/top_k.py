"""Tokens that the target finds likely enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView, Verdict


@dataclass(frozen=True)
class TopK:
    """k: size of the target's top list (0: none); theta: or a probability above this; tau: share that must hold."""

    k: int = 10
    theta: float = 1.0
    tau: float = 0.9

    def __post_init__(self) -> None:
        require(self.k >= 0, f"acceptance.k must be ≥ 0, got {self.k}")
        require(0 <= self.theta <= 1, f"acceptance.theta must lie in [0, 1], got {self.theta}")
        require(0 <= self.tau <= 1, f"acceptance.tau must lie in [0, 1], got {self.tau}")


@register("acceptance", "top_k", TopK)
def top_k(rule: TopK, view: StageView) -> Verdict:
    """Share of tokens with rank under p ≤ k or p > θ, p processed, ≥ τ; rank = 1 + number of codes with larger p. Lossy."""
    import torch

    from sdvar_exp.decoding.evidence import by_share, log_distance
    from sdvar_exp.decoding.sampling import rounding

    p = view.probability(view.draft_tokens_Bl, view.p)
    better = (view.p > p[..., None]).sum(dim=-1)
    theta = rule.theta * (1 + rounding(p.dtype))  # a probability that equals θ but for rounding is not above it
    listed, likely = (better < rule.k) & (p > 0), p > theta

    def edge() -> torch.Tensor:
        by_rank = view.rank_edge_Bl(rule.k).masked_fill(p == 0, torch.inf)
        by_theta = log_distance(p, torch.full_like(p, theta))
        # accepted in two ways: both must turn; in one: that one; in none: either
        either = torch.where(listed & likely, torch.maximum(by_rank, by_theta), torch.minimum(by_rank, by_theta))
        only = torch.where(listed, by_rank, by_theta)
        return torch.minimum(torch.where(listed ^ likely, only, either), view.support_edge_Bl)

    return by_share(view, listed | likely, rule.tau, edge)
