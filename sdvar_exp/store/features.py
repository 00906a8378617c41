"""Features of a study's images from its ledger, by cell. No torch."""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdvar_exp.store.ledger import Body, LedgerReader


@dataclass(frozen=True)
class CellFeatures:
    """labels, predicted, baseline_predicted: (n,) int64. features, baseline: (n, d) float32. digest: of the classifier."""

    labels: np.ndarray
    predicted: np.ndarray
    features: np.ndarray
    baseline_predicted: np.ndarray
    baseline: np.ndarray
    digest: str


def read_features(folder: Path | str) -> dict[str, CellFeatures]:
    """Features of every cell whose units have them, units sorted by label and seed; the first row of a unit counts."""
    rows: dict[str, dict[tuple[int, int], Body]] = defaultdict(dict)
    for body in LedgerReader(Path(folder) / "ledger").read(containing=b'"seen"'):
        if body.get("type") == "unit" and "seen" in body:
            rows[body["cell"]].setdefault((body["label"], body["seed"]), body["seen"])
    return {cell: _arrays(units) for cell, units in rows.items()}


def _arrays(units: dict[tuple[int, int], Body]) -> CellFeatures:
    keys = sorted(units)
    digests = {units[k]["classifier"] for k in keys}

    def decoded(name: str) -> np.ndarray:
        return np.stack([np.frombuffer(base64.b64decode(units[k][name]), "<f2").astype(np.float32) for k in keys])

    def ints(name: str) -> np.ndarray:
        return np.array([units[k][name] for k in keys], np.int64)

    return CellFeatures(np.array([label for label, _ in keys], np.int64), ints("predicted"), decoded("features"),
                        ints("baseline_predicted"), decoded("baseline_features"),
                        digests.pop() if len(digests) == 1 else "")
