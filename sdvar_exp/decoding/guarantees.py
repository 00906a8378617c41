"""What a cell promises about the tokens that it commits. No torch."""

from __future__ import annotations

from sdvar_exp.cell import Cell
from sdvar_exp.decoding.speculate import OnReject, repairs


def lossless(cell: Cell) -> str:
    """`tokens`: those of the sequential target; `distribution`: drawn from it; `no` (DESIGN 2.2)."""
    strategy = cell.strategy
    if strategy.name == "sequential":
        return "tokens"
    if strategy.name not in ("parallel_v1", "dynamic_gamma") or cell.acceptance is None or cell.mask is None:
        return "no"
    if strategy.params.on_reject is not OnReject.correct or cell.mask.name != "block_causal":
        return "no"
    return str(cell.acceptance.entry.meta.get("lossless", "no"))


def batch_free(cell: Cell) -> bool:
    """Whether the tokens of an image are independent of controller and batch-mates.

    Under a lossy rule they are not where the target samples some stages unjudged (bonus, γ = 0): which ones depends on
    how the rounds of the batch fall.
    """
    if "acceptance" not in cell.reads or cell.acceptance is None:
        return True
    block_causal = cell.mask is not None and cell.mask.name == "block_causal"
    loop = cell.strategy.params
    if loop.on_reject is not OnReject.correct or not block_causal or repairs(cell):
        return False
    unjudged = loop.bonus or loop.skip_last or 0 in getattr(getattr(cell.gamma, "params", None), "values", ())
    return not unjudged or cell.acceptance.entry.meta.get("lossless") == "tokens"
