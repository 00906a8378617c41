"""Speculative sampling of a stage as one unit: lossless in distribution, and no lossless test passes more often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdvar_exp.registry import Empty, register

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView, Verdict

ACCEPT = 2  # noise stream that the rule reads; attempts at the residual are made when a stage failed


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
