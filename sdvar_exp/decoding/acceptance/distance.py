"""Rules that bound a distance between the two models' distributions at a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView, Verdict


@dataclass(frozen=True)
class Bound:
    """tau: largest accepted mean over the stage's tokens; by_stage: τ_k per stage instead (the last holds for later ones)."""

    tau: float = 0.5
    by_stage: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_stage", tuple(self.by_stage))
        require(self.tau >= 0, f"acceptance.tau must be ≥ 0, got {self.tau}")
        require(all(t >= 0 for t in self.by_stage), f"acceptance.by_stage must be ≥ 0, got {list(self.by_stage)}")

    def at(self, stage: int) -> float:
        """τ_k of a stage."""
        return self.by_stage[min(stage, len(self.by_stage) - 1)] if self.by_stage else self.tau


@register("acceptance", "kl", Bound)
def kl(rule: Bound, view: StageView) -> Verdict:
    """Mean over tokens of KL(p‖q) = Σ_v p·ln(p/q), p and q after temperature, before top-k/top-p, ≤ τ_k. Lossy."""
    from sdvar_exp.decoding.evidence import by_bound

    return by_bound(view, view.kl_Bl.mean(dim=1), rule.at(view.stage))


@register("acceptance", "tv", Bound)
def tv(rule: Bound, view: StageView) -> Verdict:
    """Mean over tokens of TV(p, q) = ½ Σ_v |p - q|, the chance that `rejection` rejects one, processed, ≤ τ_k. Lossy."""
    from sdvar_exp.decoding.evidence import by_bound

    return by_bound(view, view.tv_Bl.mean(dim=1), rule.at(view.stage), lambda: view.support_edge_Bl)
