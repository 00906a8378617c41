"""Quality of each cell's images as a set: class accuracy, and distances to real data and to the baseline's samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.metrics import mean_interval
from sdvar_exp.metrics.distribution import Estimate, compare, test_features
from sdvar_exp.store.features import CellFeatures, read_features
from sdvar_exp.store.files import atomic_write
from sdvar_exp.store.manifest import read_cells

METRICS = ("fd", "kid", "precision", "recall")


def quality_table(folder: Path | str) -> pd.DataFrame:
    """One row per cell with features, in plan order.

    Columns: cell, name, n; class_accuracy; METRICS against real data (`_real`: the shipped test set) and against the
    baseline's samples of the same units (`_baseline`); each with `_low`, `_high` (95 %) and, where refused, null with the
    reason in `note`.
    """
    known, found = read_cells(Path(folder)), read_features(folder)
    order = sorted((cell for cell in found if cell in known), key=lambda cell: known[cell]["order"])
    return pd.DataFrame([{"cell": cell, "name": known[cell]["name"], **_row(found[cell])} for cell in order])


def _row(cell: CellFeatures) -> dict[str, Any]:
    correct = (cell.predicted == cell.labels).astype(np.float64)
    accuracy = mean_interval(correct.tolist(), cell.labels.tolist())
    row: dict[str, Any] = {"n": len(cell.labels), "class_accuracy": accuracy.mean, "class_accuracy_low": accuracy.low,
                           "class_accuracy_high": accuracy.high}
    row["class_accuracy_baseline"] = float((cell.baseline_predicted == cell.labels).mean())
    notes: dict[str, None] = {}
    real, real_labels, digest = test_features()
    if cell.digest == digest:
        keep = np.isin(real_labels, cell.labels)
        found = compare(cell.features, cell.labels, real[keep], real_labels[keep])
    else:
        reason = "features are of another classifier than the shipped one: decode again in a new study"
        found = {name: Estimate(len(cell.labels), refused=reason) for name in METRICS}
    row |= _columns(found, "real", notes)
    if np.array_equal(cell.features, cell.baseline):
        same = {"fd": 0.0, "kid": 0.0, "precision": 1.0, "recall": 1.0}
        found = {name: Estimate(len(cell.labels), v, v, v) for name, v in same.items()}
    else:
        found = compare(cell.features, cell.labels, cell.baseline, cell.labels, paired=True)
    return row | _columns(found, "baseline", notes) | {"note": "; ".join(notes)}


def _columns(found: dict[str, Estimate], suffix: str, notes: dict[str, None]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in METRICS:
        e = found[name]
        out |= {f"{name}_{suffix}": e.value, f"{name}_{suffix}_low": e.low, f"{name}_{suffix}_high": e.high}
        if e.refused:
            notes[f"{'all distances' if e.n < 100 else name} to {suffix}: {e.refused}"] = None
    return out


def write_quality(folder: Path | str) -> pd.DataFrame:
    """`quality_table`, also written to tables/quality.csv and .parquet."""
    table, path = quality_table(folder), Path(folder) / "tables" / "quality"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path.with_suffix(".csv"), table.to_csv(index=False, lineterminator="\n").encode())
    atomic_write(path.with_suffix(".parquet"), table.to_parquet(None, index=False))
    return table


def render_quality(table: pd.DataFrame) -> str:
    """The table as text, one line per cell, the reasons for what was refused below."""
    head = ["cell", "n", "class accuracy", *(f"{m} {to}" for to in ("real", "baseline") for m in METRICS)]
    lines = [[str(row["name"]), str(row["n"]), _text(row, "class_accuracy", 3),
              *(_text(row, f"{m}_{to}", 4 if m == "kid" else 3) for to in ("real", "baseline") for m in METRICS)]
             for row in table.to_dict("records")]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    out = ["  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in [head, *lines]]
    notes = dict.fromkeys(note for note in table["note"] if note)
    return "\n".join([*out, *(f"null: {note}" for note in notes)])


def _text(row: dict[str, Any], name: str, digits: int) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if pd.isna(value):
        return "–"
    return f"{value:.{digits}f}" + ("" if pd.isna(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")
