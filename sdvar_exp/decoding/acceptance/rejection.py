"""Speculative sampling: lossless in distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdvar_exp.registry import Empty, register

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView, Verdict

ACCEPT, RESIDUAL = 2, 3  # noise streams that the rule reads


@register("acceptance", "rejection", lossless="distribution", streams=(ACCEPT, RESIDUAL))
def rejection(_: Empty, view: StageView) -> Verdict:
    """Every token has U < min(1, p/q), else it is redrawn from norm(max(0, p-q)) (arXiv 2211.17192, 2302.01318)."""
    from sdvar_exp.decoding.evidence import by_token, log_distance

    p = view.probability(view.draft_tokens_Bl, view.p)
    q = view.probability(view.draft_tokens_Bl, view.q)
    bar = view.uniform_Bl() * q
    return by_token(view, bar < p, lambda: log_distance(bar, p))
