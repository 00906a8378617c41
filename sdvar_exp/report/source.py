"""What the report reads: the tables of a study as DataFrames."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pandas as pd

RUN_COLUMNS = ["cell", "name", "strategy", "lossless", "baseline"]
NOISE_COLUMNS = ["cell", "label", "seed", "other_seed", "pixel_mae", "correlation"]


class Tables(Protocol):
    """Tables of one study, as `sdvar_exp.store.load_tables` gives them.

    Where it has one more, `noise`, its rows are pairs of baseline images of one label that differ in the seed alone:
    `NOISE_COLUMNS`, cell being the baseline's id (`metrics.noise_floor` makes the others).
    """

    @property
    def samples(self) -> pd.DataFrame: ...
    @property
    def stages(self) -> pd.DataFrame: ...
    @property
    def runs(self) -> pd.DataFrame: ...
    @property
    def timings(self) -> pd.DataFrame: ...
    @property
    def failures(self) -> pd.DataFrame: ...


def read_tables(folder: Path, stages: bool = True) -> Tables:
    """Tables of a study from its ledger, or, where it was kept without one, from its parquet files.

    stages: False leaves the rows of `stages` out where they would take long. Raises `UserError` where there is no study.
    """
    from sdvar_exp.store import load_tables

    return load_tables(folder, stages=stages)


def cells(tables: Tables) -> pd.DataFrame:
    """One row per cell in plan order: cell, name, strategy, lossless, baseline (id of the cell it is compared with)."""
    runs = tables.runs
    if runs.empty:
        return pd.DataFrame(columns=RUN_COLUMNS)
    ordered = runs.sort_values("order", kind="stable") if "order" in runs else runs
    return ordered[RUN_COLUMNS].reset_index(drop=True)


def of_cell(frame: pd.DataFrame, cell: str) -> pd.DataFrame:
    """Rows of one cell; an empty frame where the table has no rows (and perhaps no columns)."""
    return frame[frame["cell"] == cell] if "cell" in frame else frame.iloc[:0]


def noise_rows(tables: Tables) -> pd.DataFrame:
    """Pairs of baseline images, or an empty frame where the study has none."""
    noise = getattr(tables, "noise", None)
    return noise if noise is not None and "cell" in noise else pd.DataFrame(columns=NOISE_COLUMNS)


def true(values: pd.Series) -> pd.Series:
    """Plain booleans from a column that may hold nulls; null counts as false."""
    return values.astype("boolean").fillna(False).astype(bool)
