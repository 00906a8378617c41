"""The evidence that an acceptance rule may read about one proposed stage, and the verdict that it gives.

Rules build their verdicts with `by_share`, `by_bound` or `by_token`, to which they also say how far each decision lies from
its threshold. That is computed when a decode is over, and only if somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch

from sdvar_exp.cell import Noise, Sampling
from sdvar_exp.decoding.noise import NoiseBook, Stream
from sdvar_exp.decoding.sampling import gumbel_argmax, margin, process, rounding, sample_gap, support_edge


@dataclass(frozen=True)
class Verdict:
    """Answer of a rule for one stage of every image.

    passed_B: bool. accepted_Bl: bool, which draft tokens the rule accepts. corrected_Bl: tokens of a stage that fails.
    margin_B: gives how far the stage's outcome, pass or fail and the tokens to commit, lies from another one, (B,) float64,
    in logits, log-probabilities or the unit of the rule's threshold; None where the rule does not say. tries_B: attempts that
    the corrected tokens took, int64, 0 where the stage passed; None for rules that make none.
    """

    passed_B: torch.Tensor
    accepted_Bl: torch.Tensor
    corrected_Bl: torch.Tensor
    margin_B: Callable[[], torch.Tensor] | None = None
    tries_B: torch.Tensor | None = None


class StageView:
    """One proposed stage as seen by both models; everything but the tokens is computed on demand.

    Args:
        stage: index of the stage.
        draft_tokens_Bl: the proposal, int64.
        draft_logits_BlV, target_logits_BlV: guided logits before temperature, top-k and top-p.
        contribution: tokens (B, l) → what they add to f̂.
        f_hat_before: f̂ of the stages before, on which both models' logits of this stage rest.
        codebook: code vectors (V, c).
    """

    def __init__(
        self,
        stage: int,
        draft_tokens_Bl: torch.Tensor,
        draft_logits_BlV: torch.Tensor,
        target_logits_BlV: torch.Tensor,
        sampling: Sampling,
        noise: NoiseBook,
        contribution: Callable[[torch.Tensor], torch.Tensor],
        f_hat_before: torch.Tensor,
        codebook: torch.Tensor,
    ) -> None:
        self.stage, self.draft_tokens_Bl = stage, draft_tokens_Bl
        self.draft_logits_BlV, self.target_logits_BlV = draft_logits_BlV, target_logits_BlV
        self.sampling, self.noise = sampling, noise
        self.contribution, self.f_hat_before, self.codebook = contribution, f_hat_before, codebook

    @cached_property
    def target_processed(self) -> torch.Tensor:
        return process(self.target_logits_BlV, self.sampling)

    @cached_property
    def draft_processed(self) -> torch.Tensor:
        return process(self.draft_logits_BlV, self.sampling)

    @cached_property
    def target_tokens_Bl(self) -> torch.Tensor:
        """The target's sample under its noise: argmax(processed + g)."""
        return gumbel_argmax(self.target_processed, self.noise.gumbel(Stream.target, self.stage))

    @cached_property
    def target_argmax_Bl(self) -> torch.Tensor:
        """The target's most probable code."""
        return self.target_processed.argmax(dim=-1)

    @cached_property
    def p(self) -> torch.Tensor:
        """The distribution that the target samples from, (B, l, V)."""
        return self.target_processed.softmax(dim=-1)

    @cached_property
    def q(self) -> torch.Tensor:
        """The distribution that the draft sampled from, (B, l, V)."""
        return self.draft_processed.softmax(dim=-1)

    @cached_property
    def log_p_BlV(self) -> torch.Tensor:
        """Logarithm of p in float64, -inf for removed codes."""
        return self.target_processed.double().log_softmax(dim=-1)

    @cached_property
    def log_ratio_BlV(self) -> torch.Tensor:
        """ln q/p in float64: -inf where q lacks the code, +inf where p does, nan where both do."""
        return self.draft_processed.double().log_softmax(dim=-1) - self.log_p_BlV

    @cached_property
    def kl_Bl(self) -> torch.Tensor:
        """KL(p‖q) per token in nats, after temperature, before top-k/top-p."""
        plain = Sampling(temperature=self.sampling.temperature)
        log_p = process(self.target_logits_BlV, plain).log_softmax(dim=-1)
        log_q = process(self.draft_logits_BlV, plain).log_softmax(dim=-1)
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp_min(0)

    @cached_property
    def tv_Bl(self) -> torch.Tensor:
        """Total variation of the processed distributions per token, in [0, 1]."""
        return (self.p - self.q).abs().sum(dim=-1) / 2

    @cached_property
    def entropy_Bl(self) -> torch.Tensor:
        """H(p) per token in nats, processed."""
        return -torch.xlogy(self.p, self.p).sum(dim=-1)

    @cached_property
    def margin_Bl(self) -> torch.Tensor:
        """Gap between the best and the second perturbed logit where the draft sampled, in logits, (B, l)."""
        return sample_gap(self.draft_processed, self.noise.gumbel(self._draft_stream, self.stage))

    @cached_property
    def draft_edge_Bl(self) -> torch.Tensor:
        """Distance of each draft token from being another one (`sampling.margin`), float64 (B, l)."""
        g = self.noise.gumbel(self._draft_stream, self.stage)
        return margin(self.draft_logits_BlV, g, self.sampling).double()

    @cached_property
    def target_edge_Bl(self) -> torch.Tensor:
        """Distance of each token that the target samples from being another one (`sampling.margin`), float64 (B, l)."""
        return margin(self.target_logits_BlV, self.noise.gumbel(Stream.target, self.stage), self.sampling).double()

    @cached_property
    def support_edge_Bl(self) -> torch.Tensor:
        """Distance of top-k and top-p from changing p or q at each draft token noticeably, float64 (B, l)."""
        parts = [support_edge(x, self.draft_tokens_Bl, self.sampling) for x in (self.target_logits_BlV, self.draft_logits_BlV)]
        return torch.minimum(*parts)

    @property
    def argmax_edge_Bl(self) -> torch.Tensor:
        """Gap between the target's most and second most probable code, in logits, float64 (B, l)."""
        best = self.target_logits_BlV.double().topk(2, dim=-1).values / self.sampling.temperature
        return best[..., 0] - best[..., 1]

    def rank_edge_Bl(self, k: int) -> torch.Tensor:
        """Distance of each draft token from leaving, or from entering, the target's k most probable codes, in logits (B, l)."""
        x = self.target_processed.double()
        own = x.gather(-1, self.draft_tokens_Bl[..., None])
        others = x.scatter(-1, self.draft_tokens_Bl[..., None], -torch.inf)
        if not 0 < k < x.shape[-1]:  # no list, or all codes
            return torch.full_like(own[..., 0], torch.inf)
        return (own - others.topk(k, dim=-1).values[..., -1:]).abs().nan_to_num(nan=torch.inf)[..., 0]

    @property
    def _draft_stream(self) -> Stream:
        return Stream.draft if self.sampling.noise is Noise.independent else Stream.target

    def probability(self, tokens_Bl: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        """Probability of the given tokens under a distribution (B, l, V), as (B, l)."""
        return of.gather(-1, tokens_Bl[..., None])[..., 0]

    def uniform_Bl(self) -> torch.Tensor:
        """Acceptance uniforms, float64 (B, l), of a stream of their own."""
        return self.noise.uniform(self.stage)

    def residual_sample(self) -> torch.Tensor:
        """Tokens from norm(max(0, p - q)) with the residual stream (where p = q, from p), (B, l)."""
        return gumbel_argmax(self._residual_logits, self.noise.gumbel(Stream.residual, self.stage))

    def residual_edge_Bl(self) -> torch.Tensor:
        """Change of the log-probabilities that draws another token from the residual, to first order, float64 (B, l).

        Code c beats the winner w once p - q grows to e^(s_w - g_c), s_w the winner's perturbed logit; a small difference
        of two large probabilities moves many times as much as they do.
        """
        g = self.noise.gumbel(Stream.residual, self.stage).double()
        winner = self.residual_sample()[..., None]
        best = (self._residual_logits + g).gather(-1, winner)
        p, q = self.p.double(), self.q.double()
        frail = ((p + q) / (p - q)).gather(-1, winner).abs()
        bar = (best - g).exp()
        moves = (bar - (p - q)) / (p + q + bar * frail)
        return moves.masked_fill(p + q == 0, torch.inf).scatter(-1, winner, torch.inf).amin(dim=-1)

    @property
    def _residual_logits(self) -> torch.Tensor:
        rest = (self.p - self.q).clamp_min(0)
        return torch.where(rest.sum(dim=-1, keepdim=True) > 0, rest, self.p).log()


Edge = Callable[[], torch.Tensor]  # distance of each decision from its threshold, (B, l) or (B,)


def log_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|ln a - ln b| in float64; +inf where one of them is 0."""
    return (a.double().log() - b.double().log()).abs().nan_to_num(nan=torch.inf)


def by_share(
    view: StageView, accepted_Bl: torch.Tensor, threshold: float, edge: Edge | None = None, repair: bool = False
) -> Verdict:
    """Pass where at least `threshold` of the tokens are accepted; a failed stage takes the target's sample.

    edge: distance of each token's acceptance from its threshold. repair: mismatches of a passed stage are replaced, so that
    each acceptance decides a token.
    """
    # counts are compared, not rounded means: 7 of 10 passes at 0.7
    needed = math.ceil(threshold * accepted_Bl.shape[1] - 1e-9)
    count_B = accepted_Bl.sum(dim=1)
    passed = count_B >= needed

    def margin_B() -> torch.Tensor:
        assert edge is not None
        each = torch.minimum(edge().double(), view.draft_edge_Bl)
        # the verdict turns when as many acceptances turn as the count lies from the other side: the nearest ones
        turning = torch.where(passed, count_B - needed + 1, needed - count_B)
        nearest = each.masked_fill(accepted_Bl != passed[:, None], torch.inf).sort(dim=1).values
        nearest = torch.cat((nearest, torch.full_like(nearest[:, :1], torch.inf)), dim=1)
        verdict = nearest.gather(1, turning[:, None].clamp_max(nearest.shape[1]) - 1)[:, 0]
        draft = torch.minimum(each, view.target_edge_Bl) if repair else view.draft_edge_Bl
        return torch.minimum(verdict, torch.where(passed[:, None], draft, view.target_edge_Bl).amin(dim=1))

    return Verdict(passed, accepted_Bl, view.target_tokens_Bl, margin_B if edge else None)


def by_bound(view: StageView, value_B: torch.Tensor, bound: float, edge: Edge | None = None) -> Verdict:
    """Pass where a distance is at most `bound`; all of a stage's tokens share its verdict.

    edge: what else may turn the verdict, beside the distance of the value from the bound. A distance that equals the bound
    but for rounding passes.
    """
    bound += rounding(value_B.dtype)
    passed = value_B <= bound

    def margin_B() -> torch.Tensor:
        tokens = torch.where(passed[:, None], view.draft_edge_Bl, view.target_edge_Bl)
        others = tokens if edge is None else torch.minimum(tokens, edge().double())
        return torch.minimum((value_B.double() - bound).abs(), others.amin(dim=1))

    return Verdict(passed, passed[:, None].expand_as(view.draft_tokens_Bl), view.target_tokens_Bl, margin_B)


def by_token(view: StageView, accepted_Bl: torch.Tensor, edge: Edge | None = None) -> Verdict:
    """Pass where every token is accepted; rejected positions of a failed stage are redrawn from the residual.

    edge: distance of each token's acceptance from its threshold.
    """
    corrected = view.draft_tokens_Bl.where(accepted_Bl, view.residual_sample())

    def margin_B() -> torch.Tensor:
        assert edge is not None
        each = torch.minimum(edge().double(), torch.minimum(view.draft_edge_Bl, view.support_edge_Bl))
        return torch.where(accepted_Bl, each, torch.minimum(each, view.residual_edge_Bl())).amin(dim=1)

    return Verdict(accepted_Bl.all(dim=1), accepted_Bl, corrected, margin_B if edge else None)


@dataclass
class Variants:
    """More candidates for one proposed stage: tokens (B, L_k) each, f̂ after them, the target's logits of the next stage."""

    tokens: list[torch.Tensor] = field(default_factory=list)
    f_hats: list[torch.Tensor] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)


@dataclass
class Proposal:
    """Stages drafted in one round: tokens (B, L_k), guided draft logits (B, L_k, V), f̂ after each (filled on demand).

    margins: gaps of the draft's tokens by stage and image, for controllers that read them. variants: by place in the proposal,
    more candidates for a stage. swapped: place of the stage where one of them was taken.
    """

    first: int
    tokens: list[torch.Tensor] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    f_hats: list[torch.Tensor] = field(default_factory=list)
    margins: list[tuple[tuple[float, ...], ...]] = field(default_factory=list)
    variants: dict[int, Variants] = field(default_factory=dict)
    swapped: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Judged:
    """A stage's view, the rule's verdict, and whether it passed in every image of the batch."""

    view: StageView
    verdict: Verdict
    passed: bool
