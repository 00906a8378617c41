"""Features of a study's images, by cell: from its ledger, or kept beside it for another network. No torch."""

from __future__ import annotations

import base64
import io
import zipfile
from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdvar_exp.store.files import atomic_write
from sdvar_exp.store.ledger import LedgerReader
from sdvar_exp.store.records import Body


@dataclass(frozen=True)
class CellFeatures:
    """labels, predicted, baseline_predicted: (n,) int64, the last two None for a network that names no classes.
    features, baseline: (n, d) float32. digest: of the network."""

    labels: np.ndarray
    predicted: np.ndarray | None
    features: np.ndarray
    baseline_predicted: np.ndarray | None
    baseline: np.ndarray
    digest: str


@dataclass(frozen=True)
class Kept:
    """Features (n, d) of a cell's own images, of units (label, seed) in order; classes (n,) or None.

    images: SHA-256 of the images' files, which says whether they are still the ones that were looked at.
    """

    units: list[tuple[int, int]]
    features: np.ndarray
    classes: np.ndarray | None
    images: str

    def beside(self, base: Kept, digest: str) -> CellFeatures:
        """The units that the baseline has too, with its features."""
        place = {unit: i for i, unit in enumerate(base.units)}
        mine = [i for i, unit in enumerate(self.units) if unit in place]
        theirs = [place[self.units[i]] for i in mine]
        labels = np.array([self.units[i][0] for i in mine], np.int64)
        return CellFeatures(
            labels,
            None if self.classes is None else self.classes[mine],
            self.features[mine],
            None if base.classes is None else base.classes[theirs],
            base.features[theirs],
            digest,
        )


def write_kept(folder: Path, key: str, cell: str, kept: Kept) -> None:
    """Keep features in `cache/features/<key>/<cell>.npz` of a study."""
    units = np.array(kept.units, np.int64).reshape(-1, 2)
    arrays: dict[str, Any] = {"units": units, "features": kept.features.astype(np.float32), "images": np.array(kept.images)}
    if kept.classes is not None:
        arrays["classes"] = kept.classes.astype(np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    atomic_write(_place(folder, key, cell), buffer.getvalue())


def read_kept(folder: Path, key: str, cell: str) -> Kept | None:
    """The features that `write_kept` wrote, None where there is nothing or it is damaged."""
    try:
        with np.load(_place(folder, key, cell), allow_pickle=False) as file:
            units = [(int(label), int(seed)) for label, seed in file["units"]]
            classes = file["classes"] if "classes" in file.files else None
            return Kept(units, file["features"], classes, str(file["images"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _place(folder: Path, key: str, cell: str) -> Path:
    return Path(folder) / "cache" / "features" / key / f"{cell}.npz"


def read_features(folder: Path | str, units: Container[tuple[int, int]] | None = None) -> dict[str, CellFeatures]:
    """Features of every cell whose units have them, units sorted by label and seed; the first row of a unit counts.

    units: (label, seed) to be read alone.
    """
    rows: dict[str, dict[tuple[int, int], Body]] = defaultdict(dict)
    for body in LedgerReader(Path(folder) / "ledger").read(containing=b'"seen"'):
        if body.get("type") == "unit" and "seen" in body and (units is None or (body["label"], body["seed"]) in units):
            rows[body["cell"]].setdefault((body["label"], body["seed"]), body["seen"])
    return {cell: _arrays(units) for cell, units in rows.items()}


def _arrays(units: dict[tuple[int, int], Body]) -> CellFeatures:
    keys = sorted(units)
    digests = {units[k]["classifier"] for k in keys}

    def decoded(name: str) -> np.ndarray:
        return np.stack([np.frombuffer(base64.b64decode(units[k][name]), "<f2").astype(np.float32) for k in keys])

    def ints(name: str) -> np.ndarray:
        return np.array([units[k][name] for k in keys], np.int64)

    return CellFeatures(
        np.array([label for label, _ in keys], np.int64),
        ints("predicted"),
        decoded("features"),
        ints("baseline_predicted"),
        decoded("baseline_features"),
        digests.pop() if len(digests) == 1 else "",
    )
