"""Choices of a strategy about its rounds: the policy of a commit, and the options of the loop with their checks. No torch.

The decoder's verbs take a `Policy`, never these options: a strategy with parameters of its own may use them all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from sdvar_exp.errors import UserError, require
from sdvar_exp.registry import plain

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell


OnReject = Enum("OnReject", {"correct": "correct", "continue": "continue", "redraft": "redraft"})
OnReject.__doc__ = """Treatment of a failed stage.

correct: passed stages are committed, the first failed one with its corrected tokens, deeper ones are dropped.
continue: every proposed stage is committed, failed ones with their corrected tokens (lossy).
redraft: passed stages are committed; if none passed γ shrinks, and at γ = 1 the draft's stage is committed.
"""
CONTINUE = OnReject["continue"]  # the name is a keyword


class Stale(Enum):
    """Cached rows behind a replaced code: `recompute` them in one merged pass (counted), or `keep` them."""

    recompute = "recompute"
    keep = "keep"


@dataclass(frozen=True)
class Policy:
    """Settings of a commit beyond the verdicts.

    Args:
        draft_stale, target_stale: what becomes of each model's cached rows behind a replaced code.
        repair: a passed stage has the tokens that the rule does not accept replaced by the target's sample.
    """

    draft_stale: Stale = Stale.recompute
    target_stale: Stale = Stale.keep
    repair: bool = False


@dataclass(frozen=True)
class Loop:
    """Options of the loop.

    on_reject: correct | continue | redraft. bonus: verify also feeds the stage behind the proposal; a full accept commits
    γ+1. skip_last: the last proposed stage is not drafted but sampled from the target (rules that commit the target's
    tokens in any case). draft_stale, target_stale: recompute | keep. draft_cfg: guidance of proposals, `same`, `off` or a
    strength for the cell's schedule. candidates: further candidates for each proposed stage, verified in the same pass (such
    rules too): each has one of the stage's least sure tokens swapped for its runner-up.
    """

    on_reject: OnReject = OnReject.correct
    bonus: bool = False
    skip_last: bool = False
    draft_stale: Stale = Stale.recompute
    target_stale: Stale = Stale.keep
    draft_cfg: Any = "same"
    candidates: int = field(default=0, metadata={"said_if_set": True})

    def __post_init__(self) -> None:
        value = self.draft_cfg
        if value is False:  # yaml reads a bare `off` as false
            object.__setattr__(self, "draft_cfg", "off")
        elif value not in ("same", "off"):
            good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
            require(good, f"strategy.draft_cfg must be same, off or a number ≥ 0, got {value!r}")
            object.__setattr__(self, "draft_cfg", float(value))
        require(self.candidates >= 0, f"strategy.candidates must be ≥ 0, got {self.candidates}")
        require(
            not self.candidates or self.on_reject is OnReject.correct,
            f"strategy.candidates={self.candidates} needs on_reject=correct, not {self.on_reject.value}",
        )
        require(not (self.bonus and self.skip_last), "strategy.bonus and strategy.skip_last exclude each other")
        if self.on_reject is OnReject.redraft:
            require(not (self.bonus or self.skip_last), "on_reject=redraft takes neither bonus nor skip_last")
            require(
                self.draft_cfg == "same",
                "on_reject=redraft commits the draft's own proposals, which take the cell's "
                f"guidance: use strategy.draft_cfg=same, not {self.draft_cfg}",
            )


def check_loop(cell: Cell, stages: int) -> None:
    """Raise `UserError` where the cell's factors do not go together."""
    loop, rule, mask, gamma = cell.strategy.params, cell.acceptance, cell.mask, cell.gamma
    if rule is None or mask is None or gamma is None:
        raise UserError(f"{cell.strategy.name} needs a mask, an acceptance rule and a γ controller")
    require(mask.entry.meta.get("feeds") != "entry", f"mask={mask.name} is for strategy=test3 only")
    if isinstance(loop.draft_cfg, float):
        require(
            "cfg" in plain(cell.cfg_schedule.params),
            f"strategy.draft_cfg={loop.draft_cfg:g} needs a schedule with a strength, not {cell.cfg_schedule.name}",
        )
    if gamma.name == "fixed":
        require(gamma.params.value <= stages, f"gamma.value must lie in 1 … {stages}, got {gamma.params.value}")
    if "check" in gamma.entry.meta:
        gamma.entry.meta["check"](cell, stages)
    if loop.on_reject is OnReject.redraft:
        require(gamma.name == "fixed", f"on_reject=redraft shrinks γ itself: use gamma=fixed, not {gamma.name}")
        require(not repairs(cell), "on_reject=redraft takes no acceptance.repair")
        require(cell.batch == 1, f"on_reject=redraft decodes images one by one: use batch=1, got {cell.batch}")
    if loop.skip_last:
        require(
            bool(rule.entry.meta.get("commits_target")),
            f"skip_last needs a rule that commits the target's tokens in any case (exact), not {rule.name}",
        )

    if loop.candidates:
        require(
            bool(rule.entry.meta.get("commits_target")),
            f"strategy.candidates={loop.candidates} needs a rule that commits the target's tokens in any case (exact), "
            f"not {rule.name}",
        )
        require(
            bool(mask.declares("lossless")),
            f"strategy.candidates={loop.candidates} needs mask=block_causal, to which copies of a stage can be added, "
            f"not {mask.name}",
        )
        require(
            cell.model.execution not in ("compile", "graphs"),
            f"strategy.candidates={loop.candidates} needs model.execution=eager, got {cell.model.execution}",
        )


def repairs(cell: Cell) -> bool:
    """Whether a passed stage has its mismatches replaced."""
    return bool(getattr(cell.acceptance.params, "repair", False)) if cell.acceptance else False
