"""The table of cells: one row per cell, values to sort by beside the text that is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.metrics.quantities import Metric
from sdvar_exp.report.console import DASH, number, with_interval
from sdvar_exp.report.page.markup import part
from sdvar_exp.report.summary import table_metrics
from sdvar_exp.words import listed

PLOT = 84
"""Width of a row's interval drawing, in pixels."""
MOST_LISTED = 6


def factors_of(about: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """By cell, its factors as `name: value`: the choices, and each parameter as `acceptance.tau`; values without spaces."""
    return {cell: dict(_flat(one.get("config", {}))) for cell, one in about.items()}


def _flat(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        name = path if key == "name" and path else f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        elif key != "source" and value != "":
            text = value if isinstance(value, str) else json.dumps(value)
            yield name, "".join(text.split())


def factors(summary: pd.DataFrame, about: Mapping[str, Mapping[str, Any]]) -> str:
    """One list per factor that is not the same in all cells that have it, beside the strategy."""
    seen: dict[str, dict[str, None]] = {}
    known = factors_of(about)
    for cell in summary["cell"]:
        for name, value in known.get(cell, {}).items():
            seen.setdefault(name, {})[value] = None
    return part("factors", found={n: list(v) for n, v in seen.items() if len(v) > 1 and n != "strategy"})


def table(summary: pd.DataFrame, about: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The whole table; every body cell that sorts otherwise than its text carries `data-value`.

    about: of each cell what `cells/*.json` says; its factors are searched and filtered by, also where a name leaves them out.
    """
    known = factors_of(about or {})
    shown = table_metrics(summary)
    heads = [
        ("#", "number", "number in the figures"),
        ("cell", "text", ""),
        ("lossless", "text", "whether the cell gives the baseline's tokens, their distribution, or neither by construction"),
        *((m.plain_heading, "number", m.says) for m in shown),
        ("identical", "number", "images whose tokens all equal the baseline's"),
        ("n", "number", "images"),
    ]
    scales = {m.name: Scale.of(summary, m) for m in shown if m.interval}
    rows = [_row(row, shown, scales, known.get(row["cell"], {})) for row in summary.to_dict("records")]
    return part("table", heads=heads, rows=rows)


def _row(row: dict[str, Any], shown: Sequence[Metric], scales: Mapping[str, Scale], own: Mapping[str, str]) -> dict[str, Any]:
    numbers = []
    for m in shown:
        text = with_interval(row, m.name, m.digits) if m.interval else number(row[m.name], m.digits)
        mean, _, rest = text.partition(" [")
        drawing = scales[m.name].drawing(row) if m.interval else None
        numbers.append({"value": _sortable(row[m.name]), "mean": mean, "interval": rest and f"[{rest}", "drawing": drawing})
    share = row["identical"] / row["compared"] if row["compared"] else None
    identical = f"{row['identical']}/{row['compared']}" if row["compared"] else DASH
    plain = {key: row[key] for key in ("cell", "name", "strategy", "lossless", "number", "n", "is_baseline")}
    for m, one in zip(shown, numbers, strict=True):
        one["unsound"] = m.timed and not row["sound"] and row["sound"] is not pd.NA and row["sound"] is not None
    plain["factors"] = " ".join(f"{name}={value}" for name, value in own.items())
    return {**plain, "front": int(row["front"]), "numbers": numbers, "share": share, "identical": identical}


@dataclass(frozen=True)
class Scale:
    """Places a value in a row's drawing; one scale for the column, logarithmic where it holds ratios."""

    key: str
    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, summary: pd.DataFrame, m: Metric) -> Scale:
        ends = pd.concat([summary[f"{m.name}{end}"] for end in ("", "_low", "_high")]).astype(float)
        values = ends[np.isfinite(ends)].tolist()
        if m.has_floor:
            values += summary.get(f"noise_{m.name}", pd.Series(dtype=float)).dropna().astype(float).tolist()
        if m.ratio:
            values.append(1.0)
            values = [v for v in values if v > 0]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        return cls(m.name, low, high if high > low else low + 1, m.ratio)

    def at(self, value: float) -> float:
        """Pixels from the left."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return round(3 + (PLOT - 6) * (value - low) / (high - low), 1)

    def drawing(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Places of mean, interval and reference, decoration beside the numbers; None where there is no mean."""
        mean, low, high = (row[f"{self.key}{end}"] for end in ("", "_low", "_high"))
        if not _there(mean) or (self.log and mean <= 0):
            return None
        reference = 1.0 if self.log else row.get(f"noise_{self.key}")
        line = self.at(float(reference)) if reference is not None and _there(reference) else None
        known = _there(low) and _there(high) and (low > 0 or not self.log)
        ends = {"low": self.at(low) if known else None, "high": self.at(high) if known else None}
        return {"width": PLOT, "mean": self.at(mean), **ends, "reference": line}


def filters(summary: pd.DataFrame) -> str:
    """One checkbox per strategy."""
    return part("filters", strategies=list(dict.fromkeys(summary["strategy"].astype(str))))


def choices(summary: pd.DataFrame) -> str:
    """Options of a list of cells."""
    return part("choices", cells=summary[["cell", "number", "name"]].to_dict("records"))


def few_of(words: Sequence[str]) -> str:
    """`a, b and c`; of many, the first ones and how many there are more."""
    if len(words) > MOST_LISTED:
        words = [*words[: MOST_LISTED - 1], f"{len(words) - MOST_LISTED + 1} others"]
    return listed(words)


def _there(value: Any) -> bool:
    return value is not None and math.isfinite(float(value))


def _sortable(value: Any) -> float | None:
    """The number to sort by; a row without it goes last."""
    return float(value) if _there(value) else None
