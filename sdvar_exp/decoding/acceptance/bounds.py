"""The bounds: rules that do not look at the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.registry import Empty, register

if TYPE_CHECKING:
    from sdvar_exp.decoding.evidence import StageView, Verdict


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
