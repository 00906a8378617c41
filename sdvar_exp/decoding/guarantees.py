"""What a cell promises about the tokens that it commits. No torch."""

from __future__ import annotations

from sdvar_exp.cell import Cell
from sdvar_exp.decoding.speculate import OnReject, repairs


def lossless(cell: Cell) -> str:
    """`tokens`: those of the sequential target; `distribution`: drawn from it; `no`: nothing is promised (DESIGN 2.2).

    A fact of the configuration alone: the rule's own promise (`exact`, `never`: tokens; `rejection`: distribution) where
    strategy is parallel_v1 or dynamic_gamma, on_reject is `correct` and the mask is block_causal. Bonus, skip_last, γ = 0
    and draft_cfg change nothing: an unjudged stage is the target's own sample. `hybrid` keeps the promise for its stages <
    verify_until only, so the cell as a whole is `no`, and so are the ends that happen to give the same tokens: hybrid with
    verify_until = S, test3 with entry_num = 0, always(until=0), neighbourhood with δ = 0.
    """
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
