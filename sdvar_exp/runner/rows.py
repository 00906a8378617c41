"""From results to ledger records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdvar_exp.cell import Unit
from sdvar_exp.decoding.sampling import NEAR_TIE
from sdvar_exp.metrics.quantities import OWN, REFERENCE_ROWS, metrics
from sdvar_exp.metrics.quantities.fidelity import agreement_by_stage, fidelity
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.runner.result import Result

Body = dict[str, Any]


def compared(
    unit: Unit, result: Result, others: Sequence[Result], pyramid: Pyramid, exact: bool, seen: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Columns of `samples` and rows of `stages` of one image.

    others: the reference's result, and behind it the own baseline's where that is another cell: then every metric that
    compares stands a second time with the ending `_own`, and those that are always asked of the own baseline are its.
    exact: the arithmetic is float64, where no difference is a near-tie. seen: evidence for metrics of what a classifier sees.
    """
    stages: list[dict[str, Any]] = [dict(row) for row in result.stages]
    found = []
    for other, ending in zip(others, ("", OWN), strict=False):
        close = np.zeros(len(other.tokens), bool) if exact else other.margins < NEAR_TIE
        pair = (result.tokens, result.image, result.f_hat, other.tokens, other.image, other.f_hat)
        found.append(fidelity(*pair, pyramid, close_b=close, label=unit.label, **(seen if not ending else {})))
        for row, share in zip(stages, agreement_by_stage(result.tokens, other.tokens, pyramid), strict=True):
            row[f"token_agreement{ending}"] = share
    sample = {**found[0], **result.algorithm}
    if len(found) > 1:
        sample |= {m.name: found[1][m.name] for m in metrics() if m.against_own and m.name in found[1]}
        sample |= {m.name + OWN: found[1][m.name] for m in metrics() if m.twice and m.name in found[1]}
        sample[REFERENCE_ROWS] = others[0].algorithm["target_rows_alone"]
    return sample, stages


def unit_body(
    cell_id: str, unit: Unit, sample: Mapping[str, Any], stages: Sequence[Mapping[str, Any]], **circumstances: Any
) -> Body:
    """The commit marker of a unit."""
    return {
        "type": "unit",
        "cell": cell_id,
        "label": unit.label,
        "seed": unit.seed,
        "sample": {**sample, **circumstances},
        "stages": list(stages),
    }


def amplified_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a-b| × 4, clipped to [0, 1], (3, H, W)."""
    return np.clip(np.abs(a - b) * 4, 0, 1)
