"""Typical acceptance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView, Verdict


@dataclass(frozen=True)
class Typical:
    """epsilon: hard threshold; alpha: weight of the entropy-dependent one; tau: share that must hold."""

    epsilon: float = 0.1
    alpha: float = 0.3
    tau: float = 0.9

    def __post_init__(self) -> None:
        require(0 <= self.epsilon <= 1, f"acceptance.epsilon must lie in [0, 1], got {self.epsilon}")
        require(self.alpha >= 0, f"acceptance.alpha must be ≥ 0, got {self.alpha}")
        require(0 <= self.tau <= 1, f"acceptance.tau must lie in [0, 1], got {self.tau}")


@register("acceptance", "typical", Typical)
def typical(rule: Typical, view: StageView) -> Verdict:
    """Share of tokens with p > min(ε, α·exp(-H(p))) ≥ τ (Medusa, arXiv 2401.10774, eq. 1). Lossy."""
    import torch

    from sdvar_exp.decoding.evidence import by_share, log_distance
    from sdvar_exp.decoding.sampling import rounding

    p = view.probability(view.draft_tokens_Bl, view.p)
    threshold = (rule.alpha * (-view.entropy_Bl).exp()).clamp_max(rule.epsilon)
    threshold = threshold * (1 + rounding(p.dtype))  # a probability that equals it but for rounding is not above it
    return by_share(view, p > threshold, rule.tau, lambda: torch.minimum(log_distance(p, threshold), view.support_edge_Bl))
