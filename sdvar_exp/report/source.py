"""Input of the report: the tables of a study as DataFrames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.quantities import OWN, REFERENCE_ROWS, Metric, metrics
from sdvar_exp.store.columns import FORMERLY, NOISE, SAMPLES
from sdvar_exp.words import count

if TYPE_CHECKING:
    from sdvar_exp.plan import Plan
    from sdvar_exp.store.tables import Tables as StoredTables

RUN_COLUMNS = ["cell", "name", "strategy", "lossless", "baseline", "own_baseline"]
NOISE_COLUMNS = list(NOISE)[1:]


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


def read_tables(folder: Path, stages: bool = True, superseded: bool = False) -> Tables:
    """Tables of a study from its ledger, or, where it was kept without one, from its parquet files.

    stages: False leaves the rows of `stages` out where they would take long. superseded: with earlier versions of cells, see
    `current`. Raises `UserError` where there is no study.
    """
    from sdvar_exp.store import load_tables

    tables = load_tables(folder, stages=stages)
    return tables if superseded else current(tables, folder)


def current(tables: StoredTables, folder: Path) -> StoredTables:
    """The tables without the cells of earlier versions of an entry of one's own, and a note that says so."""
    from sdvar_exp.store.manifest import superseded

    old = superseded(folder)
    if not old:
        return tables
    names = dict.fromkeys(tables.runs.set_index("cell")["name"].get(list(old), pd.Series(dtype=str)))
    note = (
        f"left out, as the code of their entries was changed since: {count(len(old), 'cell')} ({', '.join(map(str, names))}); "
        "table --superseded shows them, gc --delete removes them"
    )
    return replace(tables.where(lambda _, frame: ~frame["cell"].isin(old)), notes=(*tables.notes, note))


def own_rows(tables: StoredTables, plan: Plan) -> StoredTables:
    """Rows of the plan's cells, labels and seeds: a study may hold more than one command asked for."""
    wanted = {"cell": [p.cell.id for p in plan.cells], "label": plan.labels, "seed": plan.seeds, "other_seed": plan.seeds}

    def keep(_: str, frame: pd.DataFrame) -> pd.Series:
        there = [frame[column].isin(values) for column, values in wanted.items() if column in frame]
        return pd.concat(there, axis=1).all(axis=1)

    return tables.where(keep)


def cells(tables: Tables) -> pd.DataFrame:
    """One row per cell in plan order: cell, name, strategy, lossless, baseline (id of the cell that headline numbers compare
    with, the study's reference), own_baseline (the target alone under the cell's own guidance, sampling and precision)."""
    runs = tables.runs
    if "own_baseline" not in runs and "baseline" in runs:  # a study from before there were references
        runs = runs.assign(own_baseline=runs["baseline"])
    if runs.empty:
        return pd.DataFrame(columns=RUN_COLUMNS)
    twice = runs["name"].duplicated(keep=False)
    runs = runs.assign(name=runs["name"].where(~twice, runs["name"].astype(str) + " #" + runs["cell"].str[:4]))
    ordered = runs.sort_values("order", kind="stable") if "order" in runs else runs
    return ordered[RUN_COLUMNS].reset_index(drop=True)


def of_cell(frame: pd.DataFrame, cell: str) -> pd.DataFrame:
    """Rows of one cell; an empty frame where the table has no rows (and perhaps no columns)."""
    return frame[frame["cell"] == cell] if "cell" in frame else frame.iloc[:0]


def of_unit(frame: pd.DataFrame, cell: str, label: int, seed: int) -> pd.DataFrame:
    """Rows of one unit of a cell."""
    own = of_cell(frame, cell)
    return own[(own["label"] == label) & (own["seed"] == seed)] if len(own) else own


def stage_rows(tables: Tables) -> pd.DataFrame:
    """Rows of `stages` under the names that columns have today."""
    stages = tables.stages
    return stages.rename(columns={old: new for old, new in FORMERLY["stages"].items() if new not in stages})


def noise_rows(tables: Tables) -> pd.DataFrame:
    """Pairs of baseline images, or an empty frame where the study has none."""
    noise = getattr(tables, "noise", None)
    return noise if noise is not None and "cell" in noise else pd.DataFrame(columns=NOISE_COLUMNS)


def with_rates(samples: pd.DataFrame) -> pd.DataFrame:
    """`samples` with a column for every metric that is derived from others, such as token-forwards: rows ÷ rows alone.

    Raises `UserError` for a metric of a user's whose parameters are neither evidence nor columns.
    """
    rates: dict[str, pd.Series] = {}
    alone = numbers(samples["target_rows_alone"]) if "target_rows_alone" in samples else None
    two = REFERENCE_ROWS in samples
    if alone is not None:
        samples = samples.assign(**{REFERENCE_ROWS: numbers(samples[REFERENCE_ROWS]).fillna(alone) if two else alone})
    for m in metrics():
        if m.measured or m.average == "pooled" or m.name in samples:
            continue
        if unknown := set(m.needs) - set(samples) - set(SAMPLES) - {REFERENCE_ROWS}:
            raise UserError(f"metric={m.name} needs {', '.join(sorted(unknown))}, which samples lack")
        if set(m.needs) <= set(samples):
            rates[m.name] = derived(m, samples)
            if two and alone is not None and REFERENCE_ROWS in m.needs:
                rates[m.name + OWN] = derived(m, samples.assign(**{REFERENCE_ROWS: alone}))
    return samples.assign(**rates)


def derived(metric: Metric, columns: pd.DataFrame) -> pd.Series:
    """A metric of whole columns; NaN where it is not finite."""
    values = metric.function(**{name: numbers(columns[name]) for name in metric.needs})
    return numbers(values).replace([np.inf, -np.inf], np.nan)


def numbers(values: pd.Series) -> pd.Series:
    """Floats, NaN for null."""
    return pd.to_numeric(values).astype(float)


def by_unit(samples: pd.DataFrame, metric: Metric) -> pd.Series:
    """Values of a metric by (label, seed), logarithms for a ratio; empty where there are none."""
    return rates_by_unit(with_rates(samples), metric)


def rates_by_unit(samples: pd.DataFrame, metric: Metric) -> pd.Series:
    """The same from a table that has its rates already."""
    values = values_of(samples, metric)
    if samples.empty or values.isna().all():
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], []], names=["label", "seed"]))
    values.index = pd.MultiIndex.from_frame(samples[["label", "seed"]])
    return np.log(values) if metric.ratio else values


def values_of(samples: pd.DataFrame, metric: Metric, ending: str = "") -> pd.Series:
    """A metric's column, floats, NaN where there is none; against the own baseline the plain one, where the two are the same.

    ending: of the columns in a table of two sides.
    """
    names = [f"{name}{ending}" for name in (metric.name, metric.name.removesuffix(OWN))]
    own, plain = (numbers(samples[name]) if name in samples else pd.Series(np.nan, samples.index) for name in names)
    return own.fillna(plain)


def true(values: pd.Series) -> pd.Series:
    """Plain booleans from a column that may hold nulls; null counts as false."""
    return values.astype("boolean").fillna(False).astype(bool)


def pareto(gain: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """(n,) bool: no other point has at least the gain and at most the loss, one of them strictly. NaN is on no front."""
    known = np.isfinite(gain) & np.isfinite(loss)
    better = (gain[None] >= gain[:, None]) & (loss[None] <= loss[:, None])
    strictly = (gain[None] > gain[:, None]) | (loss[None] < loss[:, None])
    return np.asarray(known & ~(better & strictly & known[None]).any(axis=1))
