"""Distance of the feature maps that the two samples give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView, Verdict


@dataclass(frozen=True)
class FeatureDistance:
    """tau: largest accepted relative distance of f̂."""

    tau: float = 0.1

    def __post_init__(self) -> None:
        require(self.tau >= 0, f"acceptance.tau must be ≥ 0, got {self.tau}")


@register("acceptance", "feature_distance", FeatureDistance)
def feature_distance(rule: FeatureDistance, view: StageView) -> Verdict:
    """‖f̂_draft - f̂_target‖ / ‖f̂_target‖ ≤ τ, both from the same prefix, differing in this stage only. Lossy."""
    import torch

    from sdvar_exp.decoding.evidence import by_bound

    target = view.f_hat_before + view.contribution(view.target_tokens_Bl)
    draft = view.f_hat_before + view.contribution(view.draft_tokens_Bl)
    distance = (draft - target).flatten(1).norm(dim=1)
    scale = target.flatten(1).norm(dim=1)
    return by_bound(
        view, distance / scale.clamp_min(1e-12), rule.tau, lambda: torch.minimum(view.draft_edge_Bl, view.target_edge_Bl)
    )
