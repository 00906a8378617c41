"""The table that a run ends with, for terminals of any width, and none at all."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdvar_exp.metrics.quantities import Metric, headline, metrics
from sdvar_exp.metrics.statistics import LEAST_FREEDOM
from sdvar_exp.report.soundness import alarm, sound, unsteady
from sdvar_exp.report.summary import table_metrics
from sdvar_exp.screen import Screen
from sdvar_exp.words import count, missing, span

NARROW = 60
"""A narrower terminal has no room for a table."""
NAMES = 24
"""Columns that names of cells may be folded to."""
GAP = 2
MOST_BROKEN = 5
"""Cells with other tokens than promised that are named; of more a number."""
DASH = "–"
AA_MARK = "A/A"


def render_table(summary: pd.DataFrame, console: Console) -> None:
    """Print `summary` (of `summarise`) as a table, then a legend.

    A terminal gets a table that fits it: columns for which there is no room are left out and named below it. One of less than
    60 columns gets a paragraph per cell. A file or pipe has no width: it gets one aligned line per cell.
    """
    if summary.empty:
        console.print("no cells yet")
        return
    shown = _shown(summary)
    timed = bool(summary["timed"].fillna(0).any())
    rows = [_texts(row, shown, timed) for row in summary.to_dict("records")] + _noise_rows(summary, shown, timed)
    if not console.is_terminal:
        unlimited = Screen(file=StringIO(), width=10_000, color_system=None)
        unlimited.print(_table(rows, shown, list(rows[0]), wide=True))
        _plain(console, [line.rstrip() for line in unlimited.file.getvalue().splitlines()])  # type: ignore[attr-defined]
    elif console.width >= NARROW:
        keys, wide = _fitting(rows, shown, console.width)
        console.print(_table(rows, shown, keys, wide, np.flatnonzero(~sound(summary)).tolist()))
        if left_out := [key for key in rows[0] if key not in keys]:
            _plain(console, [f"left out for want of room: {', '.join(left_out)}; a wider terminal or --csv shows them"], "dim")
    else:
        _plain(console, [_paragraph(row) for row in rows])
    if warning := alarm(summary):
        _plain(console, [warning], "bold red")
    if warning := unsteady(summary):
        _plain(console, [warning], "yellow")
    _plain(console, legend(summary), "dim")


def _plain(console: Console, lines: list[str], style: str = "") -> None:
    for line in lines:
        console.print(Text(line, style=style), soft_wrap=not console.is_terminal, highlight=False)


def _paragraph(row: dict[str, str]) -> str:
    facts = [f"{key} {value}" for key, value in row.items() if key != "cell" and value != DASH]
    return f"{row['cell']}: {', '.join(facts)}"


def legend(summary: pd.DataFrame) -> list[str]:
    """Lines that say what the numbers compare, over how many images, and how far another seed is."""
    lines = [_count_line(summary), _timing_line(summary)]
    lines.append("target token-forwards: rows fed to the target, both guidance halves, ÷ rows of the reference")
    lines.append("pixel difference: mean |a-b| to the reference's image of the same label and seed, on [0, 1]")
    lines += [*_identical_lines(summary), *_reference_lines(summary), *_cut_line(summary)]
    lines += [f"{m.plain_heading}: {m.says}" for m in metrics() if m.tabled and not m.own]
    pairs = summary.drop_duplicates("baseline")["noise_pairs"].fillna(0).sum()
    if pairs:
        lines.append(f"another seed: two reference images of one label that differ in the seed alone, {pairs:.0f} pairs")
    else:
        lines.append("another seed: not measured, it needs two seeds of one label")
    if near_ties := int(summary["near_ties"].sum()):
        lines.append(f"near-ties: {near_ties} images differ only where rounding decides between two tokens")
    if failed := int(summary["failed"].sum()):
        lines.append(f"failed: {failed} images have no row")
    return lines


def _count_line(summary: pd.DataFrame) -> str:
    images = span(summary["n"].astype(int))
    labels = int(summary["labels"].max())
    text = f"n = {images} images a cell from {labels} label{'s' * (labels != 1)}"
    few = "; with fewer than 3 degrees of freedom (images less labels) the range of the values" if _few(summary) else ""
    return f"{text}; in brackets 95 % intervals: labels fixed, seeds resampled within a label{few}"


def _few(summary: pd.DataFrame) -> bool:
    """Whether some cell has too few images for an interval."""
    freedom = pd.concat([summary["n"] - summary["labels"], (summary["timed"] - summary["labels"])[summary["timed"] > 1]])
    return bool((freedom < LEAST_FREEDOM).any())


def _identical_lines(summary: pd.DataFrame) -> list[str]:
    """Explains the bound beside k/N, and tells the worst image of the cells that are to give the baseline's tokens."""
    known = summary[summary["compared"] > 0]
    text = "identical: images whose tokens all equal the own baseline's; behind ≥ the exact one-sided 95 % bound on their share"
    lines = [text] if (known.loc[~known["is_baseline"], "identical"] > 0).any() else []
    claims = known[(known["lossless"] == "tokens") & ~known["is_baseline"]]
    kept, broken = (claims[claims["identical"].eq(claims["compared"]) == equal] for equal in (True, False))
    if len(kept):
        lines.append(f"lossless: {count(len(kept), 'cell')} with every token as promised{_worst(kept)}")
    for row in broken.head(MOST_BROKEN).to_dict("records"):
        stage = f", first divergent stage {row['earliest_divergence']:.0f}" if row["earliest_divergence"] >= 0 else ""
        shares = f"{row['identical']} of {row['compared']} identical"
        lines.append(f"lossless: {row['name']}: {shares}{stage}{_worst(broken[broken['cell'] == row['cell']])}")
    more = len(broken) - MOST_BROKEN
    return [*lines, f"lossless: {count(more, 'more cell')} with other tokens than promised"] if more > 0 else lines


def _worst(cells: pd.DataFrame) -> str:
    largest = cells["largest_difference"].max()
    return "" if missing(largest) else f", largest difference of a pixel {number(largest, 3)}"


def _cut_line(summary: pd.DataFrame) -> list[str]:
    """Names the intervals that reach beyond their quantity's range and are cut."""
    names = dict.fromkeys(name for text in summary["cut"].dropna() for name in text.split()) if "cut" in summary else {}
    headings = [m.plain_heading for m in table_metrics(summary) if m.name in names]
    return [f"intervals cut to what the quantity can be, wider by themselves: {', '.join(headings)}"] if headings else []


def _timing_line(summary: pd.DataFrame) -> str:
    counts = sorted(set(summary["timed"].fillna(0).astype(int)))
    left_out = int(summary["contended"].fillna(0).sum())
    beside = f"{left_out} images timed only beside another process of this project: the same command measures them again"
    if counts == [0]:
        return "speed-up: nothing timed" + (f" alone; {beside}" if left_out else "")
    timed = span(counts)
    text = f"speed-up: reference time ÷ cell time, paired, without VAE decode, geometric mean of {timed} images a cell"
    text += ", each the median of its repeats, as are ms; spread: standard deviation of one repeat's speed-up"
    if summary["is_baseline"].any():
        text += f"; {AA_MARK}: the reference timed against itself"
    again = int(summary["again"].fillna(0).sum()) if "again" in summary else 0
    text += f"; {again} repeats measured in addition, as some lay far off their cell's median" if again else ""
    return text + (f"; left out: {beside}" if left_out else "")


def _reference_lines(summary: pd.DataFrame) -> list[str]:
    """Names the reference of the numbers, where cells have baselines of their own beside it."""
    names = dict(zip(summary["cell"], summary["name"], strict=True))
    references = [names.get(cell, "the target alone") for cell in dict.fromkeys(summary["baseline"])]
    if (summary["baseline"] == summary["own_baseline"]).all():
        return []
    return [
        f"reference: {', '.join(references)}; own baseline: the target alone under the cell's own guidance, sampling and "
        "precision, of which lossless and identical are said"
    ]


def _texts(row: dict[str, Any], metrics: Sequence[Metric], timed: bool) -> dict[str, str]:
    """Text of each column. timed: some cell of the table was, so that milliseconds and their spread are columns."""
    mark = f" ({AA_MARK})" if row["is_baseline"] and row["timed"] else ""
    identical = identical_text(row)
    shown = {
        m.plain_heading: with_interval(row, m.name, m.digits) if m.interval else number(row[m.name], m.digits) for m in metrics
    }
    times = {"ms": number(row["latency_ms"], 1), "spread": spread_text(row)} if timed else {}
    return {"cell": f"{row['name']}{mark}", **shown, "identical": identical, **times, "lossless": str(row["lossless"])}


def _shown(summary: pd.DataFrame) -> list[Metric]:
    """Metrics of the table, where there is room for all; against the own baseline the headline's alone."""
    heads = {headline(role).against_baseline().name for role in ("difference", "speed")}
    own = [m for m in table_metrics(summary) if m.name in heads]
    return [*(m for m in metrics() if m.shown in ("everywhere", "wide")), *(replace(m, shown="wide") for m in own)]


def _noise_rows(summary: pd.DataFrame, shown: Sequence[Metric], timed: bool) -> list[dict[str, str]]:
    """One row per baseline whose other seeds were compared, with the same keys as a cell's row."""
    names = dict(zip(summary["cell"], summary["name"], strict=True))
    out = []
    for row in summary.drop_duplicates("baseline").to_dict("records"):
        if not missing(row[f"noise_{headline('difference').name}"]):
            texts = dict.fromkeys(_texts(row, shown, timed), DASH)
            texts["cell"] = f"another seed of {names.get(row['baseline'], 'the reference')}"
            out.append(texts | {m.plain_heading: number(row[f"noise_{m.name}"], m.digits) for m in metrics() if m.has_floor})
    return out


def _fitting(rows: list[dict[str, str]], shown: Sequence[Metric], width: int) -> tuple[list[str], bool]:
    """Columns that fit a terminal, and whether intervals stand beside their means there.

    Those that only wide tables have go first, from the last on, then the others; the headline's stay the longest.
    """
    headings = {m.plain_heading: m.lines() for m in shown}
    heads = [headline(role).plain_heading for role in ("calls", "speed", "difference")]
    dispensable = [
        *(key for key in ("lossless", "spread", "ms") if key in rows[0]),
        *(m.plain_heading for m in reversed(shown) if m.shown == "wide" and m.plain_heading not in heads),
    ]
    dispensable += [m.plain_heading for m in reversed(shown) if m.plain_heading not in (*heads, *dispensable)]
    dispensable += [key for key in ("identical", *heads[:2]) if key in rows[0]]

    def needed(keys: Sequence[str], wide: bool, names: int) -> int:
        widths = []
        for key in keys:
            texts = [line for row in rows for line in _cell_text(key, row[key], wide).plain.split("\n")]
            widest = max(map(len, (*headings.get(key, (key,)), *texts)))
            widths.append(min(widest, names) if key == "cell" else widest)
        return sum(widths) + GAP * (len(widths) - 1)

    keys, longest = list(rows[0]), max(len(row["cell"]) for row in rows)
    if needed(keys, True, longest) <= width:
        return keys, True
    for key in dispensable:
        if needed(keys, False, NAMES) <= width:
            break
        keys.remove(key)
    return keys, False


def _table(
    rows: list[dict[str, str]], shown: Sequence[Metric], keys: Sequence[str], wide: bool, unsound: Collection[int] = ()
) -> Table:
    """A table without frame. wide: intervals stand behind their means, else below them.

    unsound: places of rows whose times are not sound; they are greyed.
    """
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    headings = {m.plain_heading: "\n".join(m.lines()) for m in shown}
    grey = [m.plain_heading for m in shown if m.timed and m.plain_heading in keys]
    for key in keys:
        first = key == "cell"
        heading = key if first else headings.get(key, f"\n{key}")
        table.add_column(heading, justify="left" if first else "right", no_wrap=not first, overflow="fold")
    for i, row in enumerate(rows):
        style = "italic" if row["lossless"] == DASH else ""
        texts = {key: _cell_text(key, row[key], wide) for key in keys}
        for key in grey if i in unsound else ():
            texts[key].stylize("dim")
        table.add_row(*texts.values(), style=style)
    return table


def _cell_text(key: str, text: str, wide: bool) -> Text:
    mean, bracket, interval = text.partition(" [")
    if key == "cell" or not bracket:
        return Text(text)
    return Text.assemble(mean, " " if wide else "\n", (f"[{interval}", "dim"))


def with_interval(row: dict[str, Any], name: str, digits: int) -> str:
    """`1.95 [1.90, 2.01]`, without brackets where there is no interval or it has no width."""
    mean, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if missing(mean) or missing(low) or low == high:
        return number(mean, digits)
    return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"


def identical_text(row: dict[str, Any]) -> str:
    """`10/10 [≥ 0.74]`: how many of how many images are identical, and the bound on their share; a baseline is itself."""
    if not row["compared"]:
        return DASH
    bound = (
        f" [≥ {math.floor(100 * (1 - row['different_bound'])) / 100:.2f}]"
        if row["identical"] and not row["is_baseline"]
        else ""
    )
    return f"{row['identical']}/{row['compared']}{bound}"


def spread_text(row: dict[str, Any]) -> str:
    """`3 %`, how much one repeat of a speed-up varies; `14 % ~` where that is unsteady."""
    if missing(row["speedup_spread"]):
        return DASH
    return f"{100 * row['speedup_spread']:.0f} %{' ~' if row['unsteady'] else ''}"


def number(value: float | None, digits: int) -> str:
    """Fixed decimals; 0 stays 0, and what would round to 0 is shown as a power of ten."""
    if value is None or missing(value):
        return DASH
    if value == 0:
        return "0"
    return f"{value:.{digits}f}" if abs(value) >= 0.5 * 10**-digits else f"{value:.0e}"
