"""Share of matching tokens, the seed's criterion."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView, Verdict


class MatchMode(Enum):
    """`coupled`: with the target's sample under the noise; `argmax`: with its most probable code."""

    coupled = "coupled"
    argmax = "argmax"


@dataclass(frozen=True)
class MatchRate:
    """tau: share that must match; mode: with what; repair: replace the mismatches of a stage that passes."""

    tau: float = 0.5
    mode: MatchMode = MatchMode.coupled
    repair: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.tau <= 1, f"acceptance.tau must lie in [0, 1], got {self.tau}")


@register("acceptance", "match_rate", MatchRate)
def match_rate(rule: MatchRate, view: StageView) -> Verdict:
    """Share of tokens equal to the target's argmax(ℓ_p + g) (coupled) or argmax ℓ_p (SDVAR's criterion) ≥ τ. Lossy."""
    from sdvar_exp.decoding.evidence import by_share

    coupled = rule.mode is MatchMode.coupled
    same = view.draft_tokens_Bl == (view.target_tokens_Bl if coupled else view.target_argmax_Bl)
    return by_share(view, same, rule.tau, lambda: view.target_edge_Bl if coupled else view.argmax_edge_Bl, rule.repair)
