"""The stable table: the part of a table that a second run of the same study must repeat byte for byte."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.store.columns import VOLATILE
from sdvar_exp.store.tables import load_tables

STABLE = ("samples", "stages", "runs")


def stable_csv(folder: Path | str, table: str = "samples") -> str:
    """Csv of a table without the columns of VOLATILE.

    Rows in plan order: cell, label, seed, stage. Floats in their shortest form that reads back equal, booleans true and
    false, missing values and NaN null. Depends on what was computed, not on when, where or in which order.
    """
    if table not in STABLE:
        raise UserError(f"there is no stable table {table!r}; choose one of {', '.join(STABLE)}")
    frame: pd.DataFrame = getattr(load_tables(folder, stages=table == "stages"), table)
    return frame_csv(frame[[c for c in frame if c not in VOLATILE]])


def frame_csv(frame: pd.DataFrame) -> str:
    """Csv text of a DataFrame, in its order."""
    columns = [texts(frame[name]) for name in frame]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue()


def texts(column: pd.Series) -> list[str]:
    """One text per value of a column."""
    return ["null" if null else _text(v) for v, null in zip(column.tolist(), column.isna(), strict=True)]


def _text(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(value))
    return str(value)
