r"""Numbers of a study as LaTeX macros, each with the hash of its data, and the check of a .tex file against the study.

A paper inputs the file once and writes `\sdvar{demo}{b5069d9af592}{pixel_mae}`; an unknown name is an error of LaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.quantities import OWN, Metric
from sdvar_exp.report.console import number
from sdvar_exp.report.source import Tables, of_cell, with_rates
from sdvar_exp.report.style import data_hash
from sdvar_exp.report.summary import ENDS, summarise, table_metrics
from sdvar_exp.report.verify import Checked

HEAD = r"""\providecommand{\sdvardef}[5]{\expandafter\gdef\csname sdvar@#1@#2@#3\endcsname{#4}}
\providecommand{\sdvar}[3]{\ifcsname sdvar@#1@#2@#3\endcsname\csname sdvar@#1@#2@#3\endcsname
  \else\errmessage{sdvar: no number #3 of cell #2 in study #1}\fi}
"""
COUNTS = ("n", "identical")
DEFINED = re.compile(r"^[^%\n]*?\\sdvardef\{([^{}]*)\}\{([^{}]*)\}\{([^{}]*)\}\{([^{}]*)\}\{([0-9a-f]{16})\}", re.MULTILINE)

Numbers = dict[tuple[str, str], tuple[str, str]]
"""By (cell, quantity): the text that LaTeX prints, and sixteen digits of the hash of the rows that it comes from."""


def numbers_of(tables: Tables) -> Numbers:
    """Every number of the study's table: means, ends of intervals, counts; what does not exist is left out."""
    summary, rows = summarise(tables), with_rates(tables.samples)
    quantities: list[Metric | str] = [*table_metrics(summary), *COUNTS]
    return {
        (row["cell"], name): (text, mark)
        for row in summary.to_dict("records")
        for metric in quantities
        for mark in [_mark(of_cell(rows, row["cell"]), of_cell(tables.timings, row["cell"]), metric)]
        for name, text in _texts(row, metric)
    }


def _texts(row: Mapping[Any, Any], metric: Metric | str) -> Iterator[tuple[str, str]]:
    names = [metric] if isinstance(metric, str) else [f"{metric.name}{end}" for end in ENDS]
    for name in names:
        value = row.get(name)
        if value is not None and not pd.isna(value):
            yield name, number(float(value), 0 if isinstance(metric, str) else metric.digits)


def _mark(rows: pd.DataFrame, timings: pd.DataFrame, metric: Metric | str) -> str:
    if not isinstance(metric, str) and metric.timed:
        return data_hash(timings[[c for c in timings if c not in ("study", "cell")]])[:16]
    name = "identical" if isinstance(metric, str) else metric.name
    needs = () if isinstance(metric, str) else metric.needs
    wanted = dict.fromkeys(["label", "seed", name, name.removesuffix(OWN), *needs])
    return data_hash(rows[[c for c in wanted if c in rows]])[:16]


def macros(tables: Tables) -> str:
    r"""A file that defines `\sdvar{STUDY}{CELL}{QUANTITY}` for every number of the table, in plan order."""
    names = dict(zip(tables.runs["cell"], tables.runs["name"], strict=True))
    study = str(tables.runs["study"].iloc[0]) if len(tables.runs) else ""
    lines, last = [HEAD], ""
    for (cell, name), (text, mark) in numbers_of(tables).items():
        if cell != last:
            lines.append(f"% {' '.join(str(names[cell]).split())}\n")
            last = cell
        lines.append(rf"\sdvardef{{{study}}}{{{cell}}}{{{name}}}{{{text}}}{{{mark}}}" + "\n")
    return "".join(lines)


def check_macros(tables: Tables, file: Path) -> list[Checked]:
    """Each macro of the study that a .tex file defines: whether its number and the data behind it are the study's still.

    Raises `UserError` where the file cannot be read or defines no number of the study.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--tex {file} cannot be read ({error}); give the file that `table --macros` wrote") from None
    studies = set(map(str, tables.runs["study"]))
    found = [m.groups() for m in DEFINED.finditer(text) if m[1] in studies]
    if not found:
        raise UserError(f"--tex {file} defines no number of study {', '.join(sorted(studies))}; `table --macros` writes them")
    known = numbers_of(tables)
    checked = []
    for _, cell, name, value, mark in found:
        now, hash_now = known.get((cell, name), ("", ""))
        problem = "is not a number of the study's table any more" if not hash_now else ""
        if hash_now and mark != hash_now:
            problem = f"the data have changed since it was written: {value} then, {now} now"
        elif hash_now and value != now:
            problem = f"says {value}, the data say {now}"
        checked.append(Checked(f"{cell} {name}", problem, data_sha256=hash_now))
    return checked
