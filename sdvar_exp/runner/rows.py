"""From results to ledger records."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdvar_exp.cell import Unit
from sdvar_exp.decoding.sampling import NEAR_TIE
from sdvar_exp.metrics import fidelity, token_agreement
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.runner.result import Result

Body = dict[str, Any]


def unit_body(
    cell_id: str, unit: Unit, result: Result, baseline: Result, pyramid: Pyramid, exact: bool, **circumstances: Any
) -> Body:
    """The commit marker of a unit. exact: the arithmetic is float64, where no difference is a near-tie."""
    sample = fidelity(result.tokens, result.image, result.f_hat, baseline.tokens, baseline.image, baseline.f_hat, pyramid)
    sample["near_tie"] = not exact and near_tie(result.tokens, baseline, pyramid)
    agreement = token_agreement(result.tokens, baseline.tokens, pyramid)[1]
    stages = [{**row, "token_agreement": share} for row, share in zip(result.stages, agreement, strict=True)]
    return {
        "type": "unit",
        "cell": cell_id,
        "label": unit.label,
        "seed": unit.seed,
        "sample": {**sample, **result.algorithm, **circumstances},
        "stages": stages,
    }


def near_tie(tokens: np.ndarray, baseline: Result, pyramid: Pyramid) -> bool:
    """Whether rounding alone explains the difference between `tokens` (L,) and the baseline's (DESIGN 2.2).

    Every divergent token of the first divergent stage was closer than `NEAR_TIE` to being another one; what follows from
    them, in later stages, needs no excuse of its own. False for equal tokens.
    """
    different = tokens != baseline.tokens
    if not different.any():
        return False
    first = pyramid.stage_of[int(different.argmax())]
    here = pyramid.rows(first, first + 1)
    return bool((baseline.margins[here][different[here]] < NEAR_TIE).all())


def amplified_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a-b| × 4, clipped to [0, 1], (3, H, W)."""
    return np.clip(np.abs(a - b) * 4, 0, 1)
