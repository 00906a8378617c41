"""From results to ledger records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sdvar_exp.cell import Unit
from sdvar_exp.decoding.sampling import NEAR_TIE
from sdvar_exp.metrics.quantities.fidelity import agreement_by_stage, fidelity
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.runner.result import Result

Body = dict[str, Any]


def unit_body(
    cell_id: str,
    unit: Unit,
    result: Result,
    baseline: Result,
    pyramid: Pyramid,
    exact: bool,
    seen: Mapping[str, Any],
    **circumstances: Any,
) -> Body:
    """The commit marker of a unit.

    exact: the arithmetic is float64, where no difference is a near-tie. seen: evidence for metrics of what a classifier sees.
    """
    close = np.zeros(len(baseline.tokens), bool) if exact else baseline.margins < NEAR_TIE
    sample = fidelity(
        *(result.tokens, result.image, result.f_hat, baseline.tokens, baseline.image, baseline.f_hat, pyramid),
        close_b=close,
        label=unit.label,
        **seen,
    )
    agreement = agreement_by_stage(result.tokens, baseline.tokens, pyramid)
    stages = [{**row, "token_agreement": share} for row, share in zip(result.stages, agreement, strict=True)]
    return {
        "type": "unit",
        "cell": cell_id,
        "label": unit.label,
        "seed": unit.seed,
        "sample": {**sample, **result.algorithm, **circumstances},
        "stages": stages,
    }


def amplified_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a-b| × 4, clipped to [0, 1], (3, H, W)."""
    return np.clip(np.abs(a - b) * 4, 0, 1)
