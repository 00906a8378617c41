"""Results for notebooks: one row per image, with the configuration beside it."""

from __future__ import annotations

import io
import json
import keyword
import logging
import re
import tokenize
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand
from sdvar_exp.store.columns import CHOICES, CIRCUMSTANCES, IDENTITY, SPECS, TABLES
from sdvar_exp.store.files import is_study, studies_in
from sdvar_exp.store.tables import Tables, load_tables
from sdvar_exp.words import did_you_mean

log = logging.getLogger(__name__)

Where = str | Mapping[str, Any] | Callable[[pd.DataFrame], pd.Series] | None

FROM_RUNS = ("name", *CHOICES, *SPECS, "lossless", "order", "code", "device_kind", "dtype", "threads")


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


def select(frame: pd.DataFrame, where: Where, known: Collection[str] = ()) -> pd.DataFrame:
    """Rows of `frame` that `where` asks for, numbered anew. known: names that are columns elsewhere, for a guess at a slip."""
    if where is None:
        return frame
    if isinstance(where, str):
        try:
            chosen = frame.eval(where, engine="python")
            if not (isinstance(chosen, pd.Series) and chosen.dtype.kind in "bO" and chosen.dropna().isin([True, False]).all()):
                raise TypeError("it is no condition, as label == 2 is")
        except Exception as error:  # pandas raises many kinds for a query that cannot be read
            raise UserError(f"where: cannot read {where!r}{_meant(where, {*map(str, frame), *known}, error)}") from error
        return frame[chosen.fillna(False).astype(bool)].reset_index(drop=True)
    if callable(where):
        return frame[where(frame).fillna(False).astype(bool)].reset_index(drop=True)
    mask = pd.Series(True, index=frame.index)
    for column, wanted in where.items():
        if column not in frame:
            raise UserError(f"where: there is no column {column!r}; columns are {', '.join(map(str, frame.columns))}")
        values = list(wanted) if isinstance(wanted, list | tuple | set | range) else [wanted]
        mask &= frame[column].isna() if values == [None] else frame[column].isin(values)
    return frame[mask].reset_index(drop=True)


def _meant(where: str, columns: Collection[str], error: Exception) -> str:
    """The query that was meant, or which name is no column; else what pandas says of it."""
    said = " ".join(re.sub(r" ?\(<.*", "", str(error), flags=re.DOTALL).split())
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(_spelled(where, columns)).readline))
    except (tokenize.TokenError, SyntaxError):
        return f": {said}"
    if any(token.type == tokenize.ERRORTOKEN and token.string.strip() for token in tokens):
        return f": {said}"
    meant, value, place, unknown = "", False, 0, ""
    for token in (token for token in tokens if token.string.strip()):
        word, line = token.string, token.line
        mended = "==" if word == "=" else word.lower() if word.upper() in ("AND", "OR", "NOT", "IN") else word
        if mended.isidentifier() and not keyword.iskeyword(mended) and word not in columns and line[place - 1 : place] != ".":
            mended = repr(word) if value else word
            unknown = unknown or ("" if value else word)
        meant += line[place : token.start[1]] + mended
        place, value = token.end[1], mended in ("==", "!=", "[", ",", "in")
    if meant != where.strip() and not unknown:
        return f"; did you mean {meant!r}?"
    return (
        f": there is no column {unknown!r}{did_you_mean(unknown, columns, 'text stands in quotes')}" if unknown else f": {said}"
    )


def _spelled(where: str, columns: Collection[str]) -> str:
    """The query with columns, truth values and null as pandas spells them, as in `acceptance.tau` and `== null`."""
    text = re.sub(r"\b\w+(?:\.\w+)+\b", lambda m: name if (name := m[0].replace(".", "_")) in columns else m[0], where.strip())
    text = re.sub(r"(\w+)\s*==?\s*(?:null|none|nan)\b", r"\1.isnull()", text, flags=re.IGNORECASE)
    text = re.sub(r"(\w+)\s*!=\s*(?:null|none|nan)\b", r"\1.notnull()", text, flags=re.IGNORECASE)
    return re.sub(r"\b(true|false)\b", lambda m: m[0].title(), text.replace("\n", " "))


def _folders(path: Path | str | Iterable[Path | str]) -> list[Path]:
    if not isinstance(path, Path | str):
        found = [folder for one in path for folder in _folders(one)]
    elif is_study(expand(path)):
        found = [expand(path)]
    else:
        found = studies_in(expand(path))
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
