"""Promises of a cell about the tokens that it commits, from what its entries declare. No torch."""

from __future__ import annotations

from typing import Any

from sdvar_exp.cell import Cell
from sdvar_exp.decoding.options import OnReject, repairs
from sdvar_exp.registry import Choice, plain


def lossless(cell: Cell) -> str:
    """`tokens`: those of the sequential target; `distribution`: drawn from it; `no`: nothing is promised.

    A fact of the configuration alone. A strategy declares what it promises itself (`lossless=`), or that every stage goes
    through the loop (`loop=True`); then it is the promise of the rule (`lossless=`), provided that a failed stage takes its
    corrected tokens (on_reject is `correct`, or no option) and that merged passes under the mask equal single ones (the mask
    declares `lossless=True`). Bonus, skip_last, γ = 0 and draft_cfg change nothing: an unjudged stage is the target's own
    sample. `hybrid` keeps the promise for its stages < verify_until only, so the cell as a whole is `no`, and so are the ends
    that happen to give the same tokens: hybrid with verify_until = S, test3 with entry_num = 0, always(until=0),
    neighbourhood with δ = 0.
    """
    own = cell.strategy.declares("lossless")
    if own is not None:
        return str(own)
    if not cell.strategy.declares("loop") or cell.acceptance is None or not (_corrects(cell) and _exact_passes(cell.mask)):
        return "no"
    return str(cell.acceptance.declares("lossless", "no"))


def _corrects(cell: Cell) -> bool:
    return bool(_option(cell, "on_reject", OnReject.correct.value) == OnReject.correct.value)


def _exact_passes(mask: Choice | None) -> bool:
    """Whether merged passes give the logits of single ones; without a mask they are block-causal."""
    return mask is None or bool(mask.declares("lossless"))


def _option(cell: Cell, name: str, default: Any) -> Any:
    return plain(getattr(cell.strategy.params, name, default))


def _may_be_zero(gamma: Choice | None) -> bool:
    """Whether a controller declares that it leaves stages to the target alone (`zero=`, a function of its parameters)."""
    return gamma is not None and bool(gamma.declares("zero"))


def by_round(cell: Cell) -> bool:
    """Whether what is proposed for a stage depends on the rounds before, not on the committed tokens alone."""
    return cell.proposer is not None and "proposer" in cell.reads and bool(cell.proposer.declares("by_round"))


def batch_free(cell: Cell) -> bool:
    """Whether the tokens of an image are independent of controller and batch-mates.

    They are where nothing is judged, and in the loop where failed stages are corrected and nothing else is changed. Under a
    lossy rule they are not where the target samples some stages unjudged (bonus, γ = 0): which ones depends on how the
    rounds of the batch fall; nor where a proposer says that its proposals depend on that (`by_round=True`). Of a strategy
    that judges without declaring `loop=True` nothing is known.
    """
    if "acceptance" not in cell.reads or cell.acceptance is None:
        return True
    strategy = cell.strategy
    if (
        not (strategy.declares("loop") or strategy.declares("partly_loop"))
        or not (_corrects(cell) and _exact_passes(cell.mask))
        or repairs(cell)
    ):
        return False
    unjudged = _option(cell, "bonus", False) or _option(cell, "skip_last", False) or _may_be_zero(cell.gamma)
    return not (unjudged or by_round(cell)) or cell.acceptance.declares("lossless") == "tokens"
