"""Exact match with the target's sample under the shared noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdvar_exp.registry import Empty, register

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView, Verdict


@register("acceptance", "exact", lossless="tokens", commits_target=True)
def exact(_: Empty, view: StageView) -> Verdict:
    """Every token equals argmax(ℓ_p + g), the target's sample under its noise. Lossless, token for token."""
    from sdvar_exp.decoding.evidence import by_share

    return by_share(view, view.draft_tokens_Bl == view.target_tokens_Bl, 1.0, lambda: view.target_edge_Bl)
