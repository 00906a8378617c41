"""Results for notebooks: one row per image, with the configuration beside it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand
from sdvar_exp.store.columns import CIRCUMSTANCES, IDENTITY, TABLES
from sdvar_exp.store.manifest import CHOICES
from sdvar_exp.store.tables import Tables, load_tables

log = logging.getLogger(__name__)

Where = str | Mapping[str, Any] | Callable[[pd.DataFrame], pd.Series] | None

FROM_RUNS = (
    *("name", *CHOICES, *(f"{kind}_spec" for kind in CHOICES)),
    *("lossless", "order", "code", "device_kind", "dtype", "threads"),
)


def load_results(path: Path | str | Iterable[Path | str], where: Where = None, table: str = "samples") -> pd.DataFrame:
    """A table of one study, of all studies in a results folder, or of several, joined with the configuration of the cells.

    table: `samples` (a row per image), `stages` (per image and stage), `timings`, `failures`, `noise` or `runs` (per cell).
    Configuration values become columns named after the group and parameter, e.g. `strategy_entry_num`,
    `acceptance_tau`, `gamma_value`, `sampling_temperature`; null where a cell has no such parameter.
    where: a query ("strategy == 'test3' and label < 5"), {column: value or list of values}, or a function of the DataFrame
    that gives a mask. A query about what was measured on an image warns that means over such rows are biased.
    Raises `UserError` if there is no study or a column is unknown.
    """
    if table not in TABLES:
        raise UserError(f"there is no table {table!r}; choose one of {', '.join(TABLES)}")
    tables = [load_tables(folder, stages=table == "stages") for folder in _folders(path)]
    frames = [joined(one, table) for one in tables]
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    asked = re.findall(r"\w+", where) if isinstance(where, str) else where if isinstance(where, Mapping) else ()
    if outcome := sorted(set().union(*(measured(one.samples) for one in tables)).intersection(asked)):
        log.warning("rows are chosen by outcome (%s): means over them are biased", ", ".join(outcome))
    return select(frame, where)


def measured(samples: pd.DataFrame) -> set[str]:
    """Columns of `samples` that say how an image came out, of metrics of one's own too; not who made it, nor the choices."""
    known = {*IDENTITY, *CIRCUMSTANCES, "mixed"} - {"noise_ms", "peak_memory_bytes"}
    return {str(column) for column in samples} - known


def select(frame: pd.DataFrame, where: Where) -> pd.DataFrame:
    """Rows of `frame` that `where` asks for, numbered anew."""
    if where is None:
        return frame
    if isinstance(where, str):
        try:
            chosen = frame.query(where, engine="python")
        except Exception as error:  # pandas raises many kinds for a query that cannot be read
            raise UserError(f"where: cannot read {where!r}: {error}") from error
        return chosen.reset_index(drop=True)
    if callable(where):
        return frame[where(frame).fillna(False).astype(bool)].reset_index(drop=True)
    mask = pd.Series(True, index=frame.index)
    for column, wanted in where.items():
        if column not in frame:
            raise UserError(f"where: there is no column {column!r}; columns are {', '.join(map(str, frame.columns))}")
        values = list(wanted) if isinstance(wanted, list | tuple | set | range) else [wanted]
        mask &= frame[column].isna() if values == [None] else frame[column].isin(values)
    return frame[mask].reset_index(drop=True)


def _folders(path: Path | str | Iterable[Path | str]) -> list[Path]:
    if not isinstance(path, Path | str):
        found = [folder for one in path for folder in _folders(one)]
    elif (expand(path) / "manifest.json").exists():
        found = [expand(path)]
    else:
        found = sorted(p.parent for p in expand(path).glob("*/manifest.json"))
    if not found:
        raise UserError(f"there is no study at {path}; give a study's folder or the results folder")
    return found


def joined(tables: Tables, table: str = "samples") -> pd.DataFrame:
    """Rows of a table beside the configuration of their cells, as `load_results` gives them."""
    frame: pd.DataFrame = getattr(tables, table)
    columns = [c for c in FROM_RUNS if c in tables.runs and c not in frame]
    rows = []
    for run in tables.runs.to_dict("records"):
        config = {k: v for k, v in _flatten(json.loads(run["config"])).items() if k not in frame}
        rows.append({**config, "cell": run["cell"], **{c: run[c] for c in columns}})
    config = pd.DataFrame(rows, columns=None if rows else ["cell", *columns])
    return frame.merge(config.convert_dtypes(), on="cell", how="left", validate="many_to_one")


def _flatten(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{path}_{key}" if path else key
        if isinstance(value, Mapping):
            out |= _flatten(value, name)
        else:
            out[name] = json.dumps(value) if isinstance(value, list) else value
    return out
