"""Turns decodes into results (plain arrays and numbers, as the baseline cache keeps them) and results into ledger records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sdvar_exp.cell import Unit
from sdvar_exp.decoding.records import Counts, Decoded, StageOutcome
from sdvar_exp.decoding.sampling import NEAR_TIE
from sdvar_exp.metrics.quantities import OWN, REFERENCE_ROWS, metrics
from sdvar_exp.metrics.quantities.fidelity import agreement_by_stage, fidelity
from sdvar_exp.pyramid import Pyramid

PER_IMAGE = ("replaced_tokens", "target_calls_alone")
STAGE_COLUMNS = {
    "passed": "passed",
    "acceptance": "acceptance",
    "match": "match_rate",
    "one_minus_tv": "one_minus_tv",
    "kl": "kl",
    "entropy": "entropy",
    "tries": "residual_tries",
    "variant": "variant",
}


@dataclass(frozen=True)
class Result:
    """tokens: (L,) int64. f_hat: (c, h, w). image: (3, H, W) in [0, 1]. margins: (L,), see `Decoded`.

    algorithm: columns of `samples` counted while decoding (of the whole batch, but for `PER_IMAGE`). stages: rows of
    `stages` without what compares with the baseline.
    """

    tokens: np.ndarray
    f_hat: np.ndarray
    image: np.ndarray
    margins: np.ndarray
    algorithm: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[Mapping[str, Any], ...] = ()

    def to_cache(self) -> dict[str, Any]:
        """For the baseline cache: arrays and plain values, no times."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @classmethod
    def from_cache(cls, values: Mapping[str, Any]) -> Result:
        """The inverse of `to_cache` after a way through a file."""
        known = {f.name: values[f.name] for f in dataclasses.fields(cls)}
        return cls(**{**known, "stages": tuple(known["stages"])})


def f_hat_of(decoded: Decoded, i: int) -> np.ndarray:
    """f̂ of image i, (c, h, w)."""
    return to_numpy(decoded.f_hat[i])


def result_of(decoded: Decoded, i: int, image: np.ndarray) -> Result:
    """Image i of a decode that was recorded."""
    assert decoded.margins is not None
    return Result(
        np.concatenate([to_numpy(t[i]) for t in decoded.tokens]),
        f_hat_of(decoded, i),
        image,
        to_numpy(decoded.margins[i]),
        algorithm(decoded, i),
        tuple(stage_row(s, i) for s in decoded.stages),
    )


def algorithm(decoded: Decoded, i: int) -> dict[str, Any]:
    """Counts of a decode as columns of `samples`."""
    counts = decoded.counts
    columns = {f.name: getattr(counts, f.name) for f in dataclasses.fields(Counts)}
    for name in PER_IMAGE:
        values = columns[name]
        columns[name] = values[i] if values else None
    columns["near_tie_stages"] = decoded.near_tie_stages[i] if decoded.near_tie_stages else None
    columns["gamma_trace"] = ",".join(str(r.gamma) for r in decoded.rounds) or None
    return columns


def stage_row(outcome: StageOutcome, i: int) -> dict[str, Any]:
    """One stage of image i."""
    row: dict[str, Any] = {"stage": outcome.stage, "source": outcome.source}
    for name, column in STAGE_COLUMNS.items():
        values = getattr(outcome, name)
        row[column] = None if values is None else values[i]
    return row


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """On the CPU; half precisions as float32, which holds them exactly."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


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
