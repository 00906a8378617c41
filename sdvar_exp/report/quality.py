"""Quality of each cell's images as a set: class accuracy, and distances to real data and to the baseline's samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.distribution import FRECHET_PER_FEATURE, Estimate, compare, frechet, in_the_mix_of, test_features_of
from sdvar_exp.metrics.proportion import proportion_interval
from sdvar_exp.store.features import CellFeatures, read_features
from sdvar_exp.store.files import write_frame
from sdvar_exp.store.manifest import is_kept, read_cells
from sdvar_exp.words import aligned

METRICS = ("fd", "kid", "precision", "recall")
OTHER = "features are of another classifier than a shipped pair's"


@dataclass(frozen=True)
class Real:
    """Features (M, d) of real images, their labels (M,) if these are known, and the digest of the network."""

    features: np.ndarray
    labels: np.ndarray | None
    digest: str


def shipped_real(digest: str) -> Real | None:
    """The shipped features of the test set of the pair whose classifier has this digest; None for any other network."""
    found = test_features_of(digest)
    return Real(*found) if found else None


def quality_table(
    folder: Path | str, found: Mapping[str, CellFeatures] | None = None, real: Real | None = None
) -> pd.DataFrame:
    """One row per cell with features, in plan order.

    found: features by cell; those of the ledger, of the classifier that the cell's pair ships with, if None, and then
    each is compared with the test set of its own pair. real: what `_real` columns compare `found` with; without it they
    are null.
    Columns: cell, name, n; class_accuracy, also the baseline's (null for a network that names no classes); METRICS against
    real data (`_real`) and against the baseline's samples of the same units (`_baseline`); each with `_low`, `_high` (95 %)
    and, where refused, null with the reason in `note`.
    """
    kept, own = found is None, read_features(Path(folder)) if found is None else found
    known = read_cells(Path(folder))
    rows = []
    for cell in sorted((cell for cell in own if cell in known), key=lambda cell: known[cell]["order"]):
        to = shipped_real(own[cell].digest) if kept else real
        missing = OTHER if kept else "no real images were given: --real FOLDER"
        rows.append({"cell": cell, "name": known[cell]["name"], **_row(own[cell], to, missing)})
    return pd.DataFrame(rows)


def _row(cell: CellFeatures, real: Real | None, missing: str) -> dict[str, Any]:
    row: dict[str, Any] = {"n": len(cell.labels), **_accuracy(cell)}
    notes: dict[str, None] = {}
    row |= _columns(_to_real(cell, real, missing), "real", notes)
    if np.array_equal(cell.features, cell.baseline):
        same = {"fd": 0.0, "kid": 0.0, "precision": 1.0, "recall": 1.0}
        found = {name: Estimate(len(cell.labels), v, v, v) for name, v in same.items()}
    else:
        found = compare(cell.features, cell.labels, cell.baseline, cell.labels, paired=True)
    return row | _columns(found, "baseline", notes) | {"note": "; ".join(notes)}


def quality_value(name: str, cell: CellFeatures, real: Real | None) -> float:
    """One number of a cell's images as a set, without its interval: a column of `quality_table` that `OF_SETS` names.

    Raises `UserError` where the images are too few for it, or of another network.
    """
    if name == "class_accuracy":
        if cell.predicted is None:
            raise UserError("objective=class_accuracy: the network of these features names no classes")
        return float((cell.predicted == cell.labels).mean())
    n, d = cell.features.shape
    if n < FRECHET_PER_FEATURE * d:
        least = FRECHET_PER_FEATURE * d
        raise UserError(
            f"objective={name} needs at least {least} images a cell, there are {n}: more seeds, as a number or a list "
            "(an optimising sweeper gives each job one value of a sweep)"
        )
    if name == "fd_baseline":
        return frechet(cell.features, cell.baseline)
    if real is None or real.labels is None or cell.digest != real.digest:
        raise UserError(f"objective={name}: features are of another classifier than a shipped pair's; decode in a new study")
    known = np.isin(real.labels, cell.labels)
    return frechet(cell.features, real.features[known][in_the_mix_of(cell.labels, real.labels[known])])


def _accuracy(cell: CellFeatures) -> dict[str, float | None]:
    names = ("class_accuracy", "class_accuracy_low", "class_accuracy_high", "class_accuracy_baseline")
    if cell.predicted is None or cell.baseline_predicted is None:
        return dict.fromkeys(names)
    found = proportion_interval((cell.predicted == cell.labels).astype(np.float64).tolist(), cell.labels.tolist())
    low, high = (None if bound is None else min(max(bound, 0.0), 1.0) for bound in (found.low, found.high))
    return dict(zip(names, (found.mean, low, high, float((cell.baseline_predicted == cell.labels).mean())), strict=True))


def _to_real(cell: CellFeatures, real: Real | None, missing: str) -> dict[str, Estimate]:
    """Distances to real images; refused with `missing` as the reason where there are none."""
    if real is not None and cell.digest == real.digest:
        if real.labels is None:
            return compare(cell.features, cell.labels, real.features, np.zeros(len(real.features), np.int64))
        keep = np.isin(real.labels, cell.labels)
        return compare(cell.features, cell.labels, real.features[keep], real.labels[keep])
    again = ": decode again in a new study, or `quality --extractor classifier`"
    reason = missing if real is None else OTHER
    reason += again if reason == OTHER else ""
    return {name: Estimate(len(cell.labels), refused=reason) for name in METRICS}


def _columns(found: dict[str, Estimate], suffix: str, notes: dict[str, None]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in METRICS:
        e = found[name]
        out |= {f"{name}_{suffix}": e.value, f"{name}_{suffix}_low": e.low, f"{name}_{suffix}_high": e.high}
    for reason in dict.fromkeys(e.refused for e in found.values() if e.refused):
        refused = [name for name, e in found.items() if e.refused == reason]
        notes[f"{'all distances' if len(refused) == len(found) else ', '.join(refused)} to {suffix}: {reason}"] = None
    return out


def write_quality(
    folder: Path | str, found: Mapping[str, CellFeatures] | None = None, real: Real | None = None, name: str = "quality"
) -> pd.DataFrame:
    """`quality_table`, also written to tables/<name>.csv and .parquet where it has rows.

    Without `found`, of a study that was kept without its ledger: the table as it was kept, if there is one.
    """
    path = Path(folder) / "tables" / name
    if found is None and is_kept(Path(folder)) and path.with_suffix(".parquet").is_file():
        return pd.read_parquet(path.with_suffix(".parquet"))
    table = quality_table(folder, found, real)
    if table.empty:
        return table
    write_frame(path, table)
    return table


def render_quality(table: pd.DataFrame) -> str:
    """The table as text, one line per cell, the reasons for what was refused below."""
    head = ["cell", "n", "class accuracy", *(f"{m} {to}" for to in ("real", "baseline") for m in METRICS)]
    lines = [head]
    for row in table.to_dict("records"):
        values = (_text(row, f"{m}_{to}", 4 if m == "kid" else 3) for to in ("real", "baseline") for m in METRICS)
        lines.append([str(row["name"]), str(row["n"]), _text(row, "class_accuracy", 3), *values])
    notes = dict.fromkeys(note for note in table["note"] if note)
    return "\n".join([*aligned(lines), *(f"null: {note}" for note in notes)])


def _text(row: dict[str, Any], name: str, digits: int) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if pd.isna(value):
        return "–"
    return f"{value:.{digits}f}" + ("" if pd.isna(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")
