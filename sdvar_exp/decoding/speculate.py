"""The loop of draft, verify, accept, commit. Reads like the algorithm; the verbs are the decoder's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdvar_exp.decoding.guidance import proposal_weights
from sdvar_exp.decoding.options import CONTINUE, Loop, OnReject, Policy, repairs

if TYPE_CHECKING:
    from sdvar_exp.decoding.decoder import Decoder


def speculate(d: Decoder, options: Loop, until: int) -> None:
    """Commit the stages < until by rounds of draft, verify, accept, commit (Leviathan et al., 2211.17192, per stage)."""
    from sdvar_exp.decoding.candidates import take_variant, vary  # imports torch

    d.loops.append(options)
    policy = Policy(options.draft_stale, options.target_stale, repairs(d.cell))
    same = options.draft_cfg == "same"
    guidance = None if same else proposal_weights(d.cell.cfg_schedule, d.stages, options.draft_cfg)
    largest = d.stages
    while d.committed < until:
        gamma, reason = d.next_gamma(until, largest)
        proposal = d.propose(gamma - 1 if options.skip_last and gamma else gamma, guidance)
        while d.reads_margins and len(proposal):
            wanted, reason = d.next_gamma(until, largest, proposal)
            if wanted <= len(proposal):
                break
            gamma = wanted
            d.propose(1, guidance, proposal)
        room = d.committed + len(proposal) < until
        extra = room and (gamma == 0 or options.skip_last or options.bonus)
        vary(d, proposal, options.candidates, extra)
        logits = d.verify(proposal, extra)
        verdicts = d.judge(proposal, logits, all_of_them=options.on_reject is CONTINUE)
        logits, verdicts = take_variant(d, proposal, logits, verdicts)
        passed = d.leading_passes(verdicts)

        if options.on_reject is OnReject.redraft:
            forced = passed == 0 and gamma == 1
            d.commit_drafts(proposal, verdicts, 1 if forced else passed, forced)
            largest = gamma - 1 if passed == 0 and gamma > 1 else largest
        else:
            full = passed == len(proposal)
            count = min(passed + 1, len(verdicts)) if options.on_reject is OnReject.correct else len(proposal)
            there = len(logits) > len(proposal)  # those of the extra stage
            sampled = there and (full or (options.skip_last and options.on_reject is CONTINUE))
            d.commit(proposal, verdicts, count, logits[-1] if sampled else None, policy)
        d.close_round(proposal, verdicts, passed, gamma, reason)
