"""Further candidates for a proposed stage, verified in the same pass under a tree mask.

A stage's rows do not depend on its own tokens, so the candidates of stage k are further copies of the rows of stage k+1,
each built from the f̂ that one of them gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sdvar_exp.decoding.evidence import Judged, Proposal, Variants
from sdvar_exp.decoding.sampling import process

if TYPE_CHECKING:
    from sdvar_exp.decoding.decoder import Decoder


def vary(d: Decoder, proposal: Proposal, count: int, extra: bool = False) -> None:
    """Give up to `count` more candidates to each proposed stage whose next stage is verified too (to the last if `extra`).

    Each differs from the proposal in one token, of those with the smallest gap to the draft's best other code, least sure
    first: there stands that code. All deeper stages follow from the proposal itself.
    """
    for i in range(len(proposal) - (not extra) if count else 0):
        k, own, variants = proposal.first + i, proposal.tokens[i], Variants()
        with d.time("draft"):
            scores = process(proposal.logits[i], d.cell.sampling) + d.draft_noise(k)
            rival = scores.scatter(-1, own[..., None], -torch.inf).max(dim=-1)
            gap = scores.gather(-1, own[..., None])[..., 0] - rival.values
            least = gap.sort(dim=1, stable=True).indices[:, :count]
            variants.tokens = [own.scatter(1, at, rival.indices.gather(1, at)) for at in least.split(1, dim=1)]
        d.extend(proposal, k)
        before = [*d.f_hats[: proposal.first], *proposal.f_hats[:i]]
        variants.f_hats = [d.accumulate(k, tokens, before) for tokens in variants.tokens]
        proposal.variants[i] = variants


def take_variant(
    d: Decoder, proposal: Proposal, logits: list[torch.Tensor], verdicts: list[Judged]
) -> tuple[list[torch.Tensor], list[Judged]]:
    """Let a stage that failed pass with another candidate if, in every image, one equals the target's sample.

    The proposal then holds the candidate, the target's cache its rows, and the round goes on for the one stage that was fed
    for it too.

    Returns:
        logits and verdicts of the stages of the round, those that rest on a dropped candidate left out.
    """
    i = len(verdicts) - 1
    for done in range(min(len(verdicts), len(proposal.variants))):
        d.variants[proposal.first + done] = torch.where(verdicts[done].verdict.passed_B, 0, -1)
    if i not in proposal.variants or verdicts[i].passed:
        return logits, verdicts
    variants, chosen_B = proposal.variants[i], d.variants[proposal.first + i]
    for number, tokens in enumerate(variants.tokens, 1):
        right = (tokens == verdicts[i].view.target_tokens_Bl).all(dim=1)
        chosen_B = torch.where((chosen_B < 0) & right, number, chosen_B)
    d.variants[proposal.first + i] = chosen_B
    proposal.tokens[i] = chosen(chosen_B, [proposal.tokens[i], *variants.tokens])
    verdicts = [*verdicts[:i], d.judge_stage(proposal, i, logits[i])]
    if not verdicts[i].passed:
        return logits, verdicts
    proposal.swapped = i
    proposal.f_hats[i:] = [chosen(chosen_B, [proposal.f_hats[i], *variants.f_hats])]
    logits = [*logits[: i + 1], chosen(chosen_B, [logits[i + 1], *variants.logits])]
    first = sum(len(proposal.variants[j].tokens) for j in range(i))
    for number in range(len(variants.tokens)):
        images = (chosen_B == number + 1).nonzero()[:, 0].tolist()
        if images:
            d.session("target").adopt(first + number, images)
    if i + 1 < len(proposal):
        verdicts.append(d.judge_stage(proposal, i + 1, logits[i + 1]))
    return logits, verdicts


def chosen(number_B: torch.Tensor, candidates: Sequence[torch.Tensor]) -> torch.Tensor:
    """Per image the candidate of its number (the first where that is negative), all of one shape (B, …)."""
    return torch.stack(tuple(candidates))[number_B.clamp_min(0), torch.arange(len(number_B), device=number_B.device)]
