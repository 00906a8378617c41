"""γ controllers: how many stages to propose next. No torch.

A controller is a pure function of its parameters and of what happened so far in this decode, so it holds no state, learns
nothing across units and can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdvar_exp.decoding.records import Round
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import Choice


@dataclass(frozen=True)
class GammaContext:
    """All that a controller may read.

    stage: first stage that is not committed. until: stage where speculation ends. history: rounds so far. margins: of every
    stage drafted so far in this round, of every image, of every token, the gap between the draft's best and second perturbed
    logit; filled for controllers registered with `reads_margins=True`, which are asked again after each drafted stage
    until they want no more stages than there are.
    """

    stage: int
    until: int
    pyramid: Pyramid
    history: tuple[Round, ...] = ()
    margins: tuple[tuple[tuple[float, ...], ...], ...] = ()

    @property
    def room(self) -> int:
        """Stages left to propose."""
        return self.until - self.stage


def next_gamma(choice: Choice, context: GammaContext) -> tuple[int, str]:
    """γ of the next round, cut to the stages that are left, and the controller's reason."""
    gamma, reason = choice.entry.function(choice.params, context)
    return max(0, min(int(gamma), context.room)), reason
