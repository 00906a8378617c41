"""Studies that were kept without their ledger: `tables/*.parquet` are then all there is of their rows, and are only read."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.store.columns import CHOICES, FORMERLY, ROUNDS, SCHEMA, TABLES
from sdvar_exp.store.frames import DTYPES, FrameBuilder, series
from sdvar_exp.store.manifest import choice_texts, is_kept
from sdvar_exp.store.records import KINDS, ROWS, leave_out, parsed
from sdvar_exp.store.rounds import round_columns

ONCE = {
    "samples": ["cell", "label", "seed"],
    "stages": ["cell", "label", "seed", "stage"],
    "runs": ["cell"],
    "timings": ["cell", "label", "seed", "repeat"],
    "noise": ["cell", "label", "seed", "other_seed"],
}
"""Columns that name a row: a second row of one name is left out."""


def kept_frames(folder: Path, cells: Collection[str] | None = None, stages: bool = True) -> dict[str, pd.DataFrame] | None:
    """Every table of a study without ledger, as its parquet files have them; None where there is a ledger, or no table.

    A table whose file is missing is empty; rows that do not fit the columns are named and left out. cells, stages: as
    `load_tables` has them. Raises `UserError` for a file that is no table of its name.
    """
    if not is_kept(folder):
        return None
    frames = {}
    for name, columns in TABLES.items():
        path = folder / "tables" / f"{name}.parquet"
        frame = FrameBuilder(columns).frame()
        if path.is_file() and (stages or name != "stages"):
            frame = _read(path, name)
        frames[name] = frame if cells is None else frame[frame["cell"].isin(list(cells))].reset_index(drop=True)
    if frames["samples"]["rounds"].isna().all():
        frames["samples"] = _with_rounds(folder, frames)
    return _with_choices(frames)


def _with_choices(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Older tables hold the whole text where names of choices are now, and no `…_spec`."""
    runs = frames["runs"]
    strategies = {c: choice_texts(parsed(text))["strategy_spec"] for c, text in zip(runs["cell"], runs["config"], strict=True)}
    for frame in (frames["samples"], runs):
        for kind in CHOICES:
            whole = frame["cell"].map(strategies) if kind == "strategy" else frame[kind]
            spec = frame[f"{kind}_spec"].where(frame[f"{kind}_spec"].notna(), whole)
            frame[f"{kind}_spec"] = series([None if _null(v) else v for v in spec], "str")
            frame[kind] = series([None if _null(v) else str(v).partition("(")[0] for v in frame[kind]], "str")
    return frames


def _with_rounds(folder: Path, frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`samples` of a study from before tables had the columns of `ROUNDS`, with them; as it is where `stages` is missing."""
    samples, stages, path = frames["samples"], frames["stages"], folder / "tables" / "stages.parquet"
    if stages.empty and path.is_file():
        stages = _read(path, "stages")
    if stages.empty or "gamma_trace" not in samples:
        return samples
    configs = {row["cell"]: parsed(row["config"]) for row in frames["runs"].to_dict("records")}
    there = stages[stages["cell"].isin(samples.loc[samples["gamma_trace"].notna(), "cell"])]
    records = there[["cell", "label", "seed", "stage", "source", "passed"]].to_dict("records")
    by_unit: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for row in records:
        by_unit.setdefault((row["cell"], row["label"], row["seed"]), []).append(row)
    builder = FrameBuilder(ROUNDS)
    for row in samples[["cell", "label", "seed", "gamma_trace", "committed_by_verify"]].to_dict("records"):
        found = by_unit.get((row["cell"], row["label"], row["seed"]), [])
        builder.add(round_columns(row, found, configs.get(row["cell"], {})))
    return samples.assign(**{name: column.array for name, column in builder.frame().items()})


def _read(path: Path, name: str) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path).reset_index(drop=True)
    except Exception as error:  # Arrow and pandas raise many kinds for a file that is not what it claims
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} cannot be read ({reason}), and the study has no ledger to make it again from; restore the file"
        ) from error
    schema = frame.attrs.get("sdvar_exp", {}).get("schema", 1)
    if schema > SCHEMA:
        raise UserError(
            f"{path} is of schema {schema}, this version of sdvar_exp reads up to {SCHEMA}; use the one that wrote it"
        )
    frame.attrs = {}
    for column in ROWS[name].must:
        if column not in frame:
            raise UserError(
                f"{path} has no column {column!r}, and the study has no ledger to make it again from; restore the file"
            )
    return _fitting(frame, path, name)


def _fitting(frame: pd.DataFrame, path: Path, name: str) -> pd.DataFrame:
    """The rows whose values are of their columns' kinds, once each; columns that the file lacks are null."""
    shape = ROWS[name]
    frame = frame.rename(columns={old: new for old, new in FORMERLY.get(name, {}).items() if new not in frame})
    bad = pd.Series(False, index=frame.index)
    why: dict[str, None] = {}
    for column, kind in {**shape.may, **shape.must}.items():
        if column not in frame:
            continue
        fits, called = KINDS[kind]
        found = _misfits(frame[column], fits)
        if column in shape.must:
            found |= frame[column].isna()
        if found.any():
            bad |= found
            why[f"{column} is no {called}"] = None
    twice = frame[~bad].duplicated(ONCE[name]) if name in ONCE else bad & False
    if twice.any():
        bad |= twice.reindex(frame.index, fill_value=False)
        why["it is there twice"] = None
    if bad.any():
        leave_out(f"{path}: {bad.sum()} of {len(frame)} rows left out: {'; '.join(why)}")
        frame = frame[~bad].reset_index(drop=True)
    kinds = {**TABLES[name], **dict.fromkeys((c for c in frame if isinstance(c, str) and c not in TABLES[name]), None)}
    columns = {column: _of_kind(frame, column, kind) for column, kind in kinds.items()}
    return pd.DataFrame(columns, index=frame.index)


def _misfits(values: pd.Series, fits: Any) -> pd.Series:
    """The values that, nulls aside, do not fit; of numbers the smallest and the largest are looked at first."""
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        ends = [] if values.isna().all() else [values.min().item(), values.max().item()]
        if all(map(fits, ends)) and ends == [*filter(lambda v: v == v, ends)]:
            return pd.Series(False, index=values.index)
    return pd.Series([not (_null(v) or fits(v)) for v in values.tolist()], index=values.index, dtype=bool)


def _null(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _of_kind(frame: pd.DataFrame, column: str, kind: str | None) -> pd.Series:
    if column not in frame:
        return series([None] * len(frame), kind)
    values = frame[column]
    wanted = np.dtype("float64") if kind == "float" else DTYPES.get(str(kind))
    if values.dtype == wanted or (kind is None and values.dtype != object):
        return values
    return series([None if _null(v) else v for v in values.tolist()], kind)
