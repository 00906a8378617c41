"""The table of cells as HTML: one row per cell, values to sort by beside the text that is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.metrics.quantities import Metric, headline, tabled
from sdvar_exp.report.console import DASH, number, with_interval
from sdvar_exp.report.source import numbers, pareto

PLOT = 84
"""Width of a row's interval drawing, in pixels."""
MOST_LISTED = 6


def table(summary: pd.DataFrame) -> str:
    """The whole table; every body cell that sorts otherwise than its text carries `data-value`."""
    shown = tabled()
    heads = ["#", "cell", "lossless", *(m.plain_heading for m in shown), "identical", "n"]
    says = [
        "number in the figures",
        "",
        "whether the cell gives the baseline's tokens, their distribution, or neither by construction",
        *(m.says for m in shown),
        "images whose tokens all equal the baseline's",
        "images",
    ]
    kinds = ["number", "text", "text", *("number" for _ in shown), "number", "number"]
    head = "".join(
        f'<th scope="col" data-kind="{kind}"{_titled(what)}><button type="button" class="sort">{escape(text)}</button></th>'
        for text, what, kind in zip(heads, says, kinds, strict=True)
    )
    scales = {m.name: Scale.of(summary, m) for m in shown if m.interval}
    rows = "\n".join(_row(row, scales) for row in summary.to_dict("records"))
    caption = "Means over images, in brackets 95 % intervals: labels fixed, seeds resampled within a label."
    return (
        f'<table id="cells-table"><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>'
    )


def _row(row: dict[str, Any], scales: dict[str, Scale]) -> str:
    front = '<span class="badge" title="no other cell is both faster and closer">front</span>' if row["front"] else ""
    base = '<span class="badge plain">baseline</span>' if row["is_baseline"] else ""
    name = f'<button type="button" class="pick" data-cell="{escape(row["cell"])}">{escape(str(row["name"]))}</button>'
    out = [f'<td class="n">{row["number"]}</td><th scope="row">{name}{base}{front}</th>']
    out.append(f"<td>{escape(str(row['lossless']))}</td>")
    for m in tabled():
        text = with_interval(row, m.name, m.digits) if m.interval else number(row[m.name], m.digits)
        mean, bracket, rest = text.partition(" [")
        shown = f'{mean} <span class="ci">[{rest}</span>' if bracket else mean
        drawing = scales[m.name].draw(row) if m.interval else ""
        out.append(f'<td class="n"{_value(row[m.name])}>{shown}{drawing}</td>')
    share = row["identical"] / row["compared"] if row["compared"] else None
    identical = f"{row['identical']}/{row['compared']}" if row["compared"] else DASH
    out.append(f'<td class="n"{_value(share)}>{identical}</td><td class="n">{row["n"]}</td>')
    facts = f'data-strategy="{escape(str(row["strategy"]))}" data-lossless="{escape(str(row["lossless"]))}"'
    return f'<tr data-cell="{escape(row["cell"])}" {facts} data-front="{int(row["front"])}">{"".join(out)}</tr>'


@dataclass(frozen=True)
class Scale:
    """Where a value lies in a row's drawing; one scale for the column, logarithmic where it holds ratios."""

    key: str
    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, summary: pd.DataFrame, m: Metric) -> Scale:
        ends = pd.concat([summary[f"{m.name}{end}"] for end in ("", "_low", "_high")]).astype(float)
        values = ends[np.isfinite(ends)].tolist()
        if m.has_floor:
            values += summary[f"noise_{m.name}"].dropna().astype(float).tolist()
        if m.ratio:
            values.append(1.0)
            values = [v for v in values if v > 0]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        return cls(m.name, low, high if high > low else low + 1, m.ratio)

    def at(self, value: float) -> float:
        """Pixels from the left."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return round(3 + (PLOT - 6) * (value - low) / (high - low), 1)

    def draw(self, row: dict[str, Any]) -> str:
        """Mean and interval as a small drawing, decoration beside the numbers; empty where there is no mean."""
        mean, low, high = (row[f"{self.key}{end}"] for end in ("", "_low", "_high"))
        if not _there(mean) or (self.log and mean <= 0):
            return ""
        reference = 1.0 if self.log else row.get(f"noise_{self.key}")
        lines = (
            f'<path class="ref" d="M{self.at(float(reference))} 1V13"/>' if reference is not None and _there(reference) else ""
        )
        if _there(low) and _there(high) and (low > 0 or not self.log):
            lines += f'<path class="bar" d="M{self.at(low)} 7H{self.at(high)}"/>'
        dot = f'<circle cx="{self.at(mean)}" cy="7" r="2.6"/>'
        return f'<svg class="spark" width="{PLOT}" height="14" aria-hidden="true" focusable="false">{lines}{dot}</svg>'


def on_front(summary: pd.DataFrame) -> list[bool]:
    """Whether no other cell has at least the speed-up and at most the pixel difference, one of them strictly."""
    speed, error = (numbers(summary[headline(role).name]).to_numpy() for role in ("speed", "difference"))
    return [bool(v) for v in pareto(speed, error)]


def filters(summary: pd.DataFrame) -> str:
    """One checkbox per strategy."""
    return "".join(
        f'<label class="chip"><input type="checkbox" name="strategy" value="{escape(s)}" checked> {escape(s)}</label>'
        for s in dict.fromkeys(summary["strategy"].astype(str))
    )


def choices(summary: pd.DataFrame) -> str:
    """Options of a list of cells."""
    return "".join(
        f'<option value="{escape(row["cell"])}">{row["number"]} · {escape(str(row["name"]))}</option>'
        for row in summary.to_dict("records")
    )


def listed(words: Sequence[str]) -> str:
    """`a, b and c`; of many, the first ones and how many there are more."""
    if len(words) > MOST_LISTED:
        words = [*words[: MOST_LISTED - 1], f"{len(words) - MOST_LISTED + 1} others"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _there(value: Any) -> bool:
    return value is not None and math.isfinite(float(value))


def _value(value: Any) -> str:
    """The attribute to sort by; without it, a row goes last."""
    return f' data-value="{float(value):.9g}"' if _there(value) else ' data-value=""'


def _titled(text: str) -> str:
    return f' title="{escape(text)}"' if text else ""
