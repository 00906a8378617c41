"""Rows to DataFrames with the columns, kinds and nulls of `columns.py`, in pieces, so that a large ledger fits."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

log = logging.getLogger(__name__)

PIECE = 50_000
TEXT = pd.StringDtype(na_value=np.nan)
"""The type that pandas calls `str` from version 3 on; in 2.3 that name turns nulls into text."""
DTYPES = {"str": TEXT, "int": pd.Int64Dtype(), "bool": pd.BooleanDtype()}
_ARROW = {"str": pa.large_string(), "int": pa.int64(), "bool": pa.bool_(), "float": pa.float64()}
_PANDAS = {pa.large_string(): TEXT, pa.int64(): DTYPES["int"], pa.bool_(): DTYPES["bool"]}

Row = dict[str, Any]


class FrameBuilder:
    """Collects rows; `frame()` gives the DataFrame. Columns that `kinds` does not name follow at the end, sorted."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.kinds = dict(kinds)
        self._rows: list[Row] = []
        self._pieces: list[pd.DataFrame] = []
        self._extra: set[str] = set()

    def add(self, row: Row) -> None:
        """Add a row; keys that are missing are null."""
        self._rows.append(row)
        if len(self._rows) >= PIECE:
            self._flush()

    def _flush(self) -> None:
        extra = set().union(*self._rows) - self.kinds.keys()
        self._extra |= extra
        columns = _arrow(self._rows, self.kinds)
        if columns is None:
            columns = {name: series([r.get(name) for r in self._rows], kind) for name, kind in self.kinds.items()}
        columns |= {name: pd.Series([r.get(name) for r in self._rows], dtype=object) for name in sorted(extra)}
        self._pieces.append(pd.DataFrame(columns, columns=[*self.kinds, *sorted(extra)]))
        self._rows = []

    def frame(self) -> pd.DataFrame:
        """All rows in the order in which they came."""
        if self._rows or not self._pieces:
            self._flush()
        pieces = self._pieces
        frame = pieces[0] if len(pieces) == 1 else pd.concat(pieces, ignore_index=True)
        for name in [n for n, d in frame.dtypes.items() if isinstance(d, np.dtype) and d.kind == "O"]:
            # an extra column, or values of several kinds: the kind is that of all rows, not of the rows of a piece
            frame[name] = series([None if pd.api.types.is_scalar(v) and pd.isna(v) else v for v in frame[name]], None)
        return frame[[*self.kinds, *sorted(self._extra)]]


def _arrow(rows: Sequence[Row], kinds: Mapping[str, str]) -> dict[str, pd.Series] | None:
    """All columns of `kinds` at once, which is three times as fast; None where a value is not of its column's kind."""
    whole = pa.struct([(name, _ARROW[kind]) for name, kind in kinds.items()])
    try:
        table = pa.Table.from_struct_array(pa.array(rows, type=whole))
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None
    if any(_fractions(rows, name) for name, kind in kinds.items() if kind == "int"):  # Arrow would cut them off
        return None
    return dict(table.to_pandas(types_mapper=_PANDAS.get).items())


def _fractions(rows: Sequence[Row], name: str) -> bool:
    """Whether a column has floats. There are millions of values to look at, so no Python is run for each."""
    return any(issubclass(kind, float) for kind in set(map(type, map(dict.get, rows, repeat(name)))))


def series(values: Sequence[Any], kind: str | None) -> pd.Series:
    """A column of a kind (None: found from the values). Values of another kind make the column text, with a warning."""
    kind = kind or _kind_of(values)
    try:
        if kind == "float":
            return pd.Series(np.array(values, dtype=np.float64))
        return pd.Series(pd.array(values, dtype=DTYPES[kind]))
    except (TypeError, ValueError) as error:
        log.warning("a column of kind %s has other values: %s", kind, error)
        return pd.Series(pd.array([None if v is None else _text(v) for v in values], dtype=TEXT))


def _kind_of(values: Sequence[Any]) -> str:
    types = {type(v) for v in values if v is not None}
    if types <= {bool}:
        return "bool" if types else "float"
    if types <= {int}:
        return "int"
    return "float" if types <= {int, float} else "str"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
