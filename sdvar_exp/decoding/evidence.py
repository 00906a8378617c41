"""What an acceptance rule may read about one proposed stage, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from sdvar_exp.cell import Sampling
from sdvar_exp.decoding.noise import NoiseBook, Stream
from sdvar_exp.decoding.sampling import gumbel_argmax, process


@dataclass(frozen=True)
class Verdict:
    """Answer of a rule for one stage of every image.

    passed_B: bool. accepted_Bl: bool, which draft tokens the rule accepts. corrected_Bl: tokens of a stage that fails.
    """

    passed_B: torch.Tensor
    accepted_Bl: torch.Tensor
    corrected_Bl: torch.Tensor


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

    def probability(self, tokens_Bl: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        """Probability of the given tokens under a distribution (B, l, V), as (B, l)."""
        return of.gather(-1, tokens_Bl[..., None])[..., 0]

    def uniform_Bl(self) -> torch.Tensor:
        """Acceptance uniforms, float64 (B, l), of a stream of their own."""
        return self.noise.uniform(self.stage)

    def residual_sample(self) -> torch.Tensor:
        """Tokens from norm(max(0, p - q)) with the residual stream (where p = q, from p), (B, l)."""
        rest = (self.p - self.q).clamp_min(0)
        rest = torch.where(rest.sum(dim=-1, keepdim=True) > 0, rest, self.p)
        return gumbel_argmax(rest.log(), self.noise.gumbel(Stream.residual, self.stage))


def by_share(view: StageView, accepted_Bl: torch.Tensor, threshold: float) -> Verdict:
    """Pass where at least `threshold` of the tokens are accepted; a failed stage takes the target's sample."""
    # counts are compared, not rounded means: 7 of 10 passes at 0.7
    needed = threshold * accepted_Bl.shape[1]
    passed = accepted_Bl.sum(dim=1) >= needed - 1e-9
    return Verdict(passed, accepted_Bl, view.target_tokens_Bl)


def by_bound(view: StageView, value_B: torch.Tensor, bound: float) -> Verdict:
    """Pass where a distance is at most `bound`; all of a stage's tokens share its verdict."""
    passed = value_B <= bound
    return Verdict(passed, passed[:, None].expand_as(view.draft_tokens_Bl), view.target_tokens_Bl)


def by_token(view: StageView, accepted_Bl: torch.Tensor) -> Verdict:
    """Pass where every token is accepted; rejected positions of a failed stage are redrawn from the residual."""
    corrected = view.draft_tokens_Bl.where(accepted_Bl, view.residual_sample())
    return Verdict(accepted_Bl.all(dim=1), accepted_Bl, corrected)
