"""The acceptance rules: functions (parameters, StageView) → Verdict on one proposed stage.

Lossless in tokens, lossless in distribution, a share of tokens, a distance, the bounds; `neighbourhood` has a file of its own.
torch is imported when a rule runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.registry import Empty, register

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView, Verdict

ACCEPT, RESIDUAL = 2, 3  # noise streams that a rule reads beside the target's; `stage_rejection` makes its attempts itself


@register("acceptance", "exact", lossless="tokens", commits_target=True)
def exact(_: Empty, view: StageView) -> Verdict:
    """Every token equals argmax(ℓ_p + g), the target's sample under its noise. Lossless, token for token."""
    from sdvar_exp.decoding.evidence import by_share

    return by_share(view, view.draft_tokens_Bl == view.target_tokens_Bl, 1.0, lambda: view.target_edge_Bl)


@register("acceptance", "rejection", lossless="distribution", streams=(ACCEPT, RESIDUAL))
def rejection(_: Empty, view: StageView) -> Verdict:
    """Every token has U < min(1, p/q), else it is redrawn from norm(max(0, p-q)) (arXiv 2211.17192, 2302.01318)."""
    from sdvar_exp.decoding.evidence import by_token, log_distance

    p = view.probability(view.draft_tokens_Bl, view.p)
    q = view.probability(view.draft_tokens_Bl, view.q)
    bar = view.uniform_Bl() * q
    return by_token(view, bar < p, lambda: log_distance(bar, p))


@register("acceptance", "stage_rejection", lossless="distribution", streams=(ACCEPT,))
def stage_rejection(_: Empty, view: StageView) -> Verdict:
    """U < min(1, P/Q), P = Π p and Q = Π q over the stage's tokens; else all of it is drawn from norm(max(0, P-Q))."""
    import torch

    from sdvar_exp.decoding.evidence import Verdict
    from sdvar_exp.decoding.residual import draw_stage

    log_u_B = view.uniform_Bl()[:, 0].log()
    log_ratio_B = -view.log_ratio_BlV.gather(-1, view.draft_tokens_Bl[..., None]).sum(dim=(1, 2))
    passed = log_u_B < log_ratio_B
    drawn = draw_stage(view, ~passed)

    def margin_B() -> torch.Tensor:
        # a sum over the tokens moves by as many times what each of them moves
        verdict = (log_ratio_B - log_u_B).abs() / view.draft_tokens_Bl.shape[1]
        tokens = torch.minimum(view.draft_edge_Bl, view.support_edge_Bl).amin(dim=1)
        return torch.minimum(torch.minimum(verdict, tokens), draw_stage(view, ~passed, edges=True).edge_B)

    return Verdict(passed, passed[:, None].expand_as(view.draft_tokens_Bl), drawn.tokens_Bl, margin_B, drawn.tries_B)


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


@dataclass(frozen=True)
class Until:
    """until: stages before this one pass, all later ones fail; -1 passes every stage."""

    until: int = -1

    def __post_init__(self) -> None:
        require(self.until >= -1, f"acceptance.until must be ≥ -1, got {self.until}")


@register("acceptance", "always", Until)
def always(rule: Until, view: StageView) -> Verdict:
    """A stage passes if k < until (default: every stage): the lossy bound."""
    import torch

    from sdvar_exp.decoding.evidence import Verdict

    accepted = view.draft_tokens_Bl >= (0 if rule.until < 0 or view.stage < rule.until else view.codebook.shape[0])
    passed = accepted.all(dim=1)
    return Verdict(
        passed,
        accepted,
        view.target_tokens_Bl,
        lambda: torch.where(passed[:, None], view.draft_edge_Bl, view.target_edge_Bl).amin(dim=1),
    )


@register("acceptance", "never", lossless="tokens")
def never(_: Empty, view: StageView) -> Verdict:
    """No stage passes, the target's sample is committed: lossless, the draft's work is wasted."""
    from sdvar_exp.decoding.evidence import Verdict

    accepted = view.draft_tokens_Bl < 0
    return Verdict(accepted.all(dim=1), accepted, view.target_tokens_Bl, lambda: view.target_edge_Bl.amin(dim=1))
