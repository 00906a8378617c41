"""The result table for a paper: LaTeX with booktabs, and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from sdvar_exp.metrics.quantities import Metric, metric
from sdvar_exp.report.console import DASH, number
from sdvar_exp.report.significance import ALPHA, comparisons, winners
from sdvar_exp.report.soundness import alarm, sound, unsteady
from sdvar_exp.report.source import Tables
from sdvar_exp.report.summary import table_metrics
from sdvar_exp.store.files import atomic_write
from sdvar_exp.words import span

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "γ": r"$\gamma$",
    "τ": r"$\tau$",
    "δ": r"$\delta$",
    "ε": r"$\epsilon$",
    "θ": r"$\theta$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "σ": r"$\sigma$",
    "Σ": r"$\Sigma$",
    "φ": r"$\phi$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "−": r"$-$",
    "–": "--",
    "…": r"\dots{}",
    "·": r"$\cdot$",
    "∞": r"$\infty$",
    "\n": " ",
    "-": "{-}",
}
MARKDOWN = {c: f"\\{c}" for c in "\\|*_`[]<>~"} | {"\n": " "}


def latex_escaped(text: str) -> str:
    """Text that pdfLaTeX prints as it stands; letters beyond Latin that it has no font for become their code point."""
    return "".join(LATEX.get(c, c if " " <= c < "\x7f" or "\xa1" <= c <= "\u017f" else f"[U+{ord(c):04X}]") for c in text)


def markdown_escaped(text: str) -> str:
    """Text that Markdown shows as it stands, also within a table."""
    return "".join(MARKDOWN.get(c, c) for c in text)


Heading = tuple[str, tuple[str, str]]
"""On one line, and on two."""


@dataclass(frozen=True)
class Dialect:
    """A format's way of writing text, a bold number, one that is not to be relied on, an interval and ±."""

    escape: Callable[[str], str]
    bold: Callable[[str], str]
    grey: Callable[[str], str]
    interval: Callable[[str, str], str]
    plus_minus: str


TEX = Dialect(
    latex_escaped,
    lambda t: rf"\textbf{{{t}}}",
    lambda t: rf"\textcolor{{gray}}{{{t}}}",
    lambda a, b: rf" {{\scriptsize [{a}, {b}]}}",
    r" $\pm$ ",
)
HTML = Dialect(
    escape,
    lambda t: f"<b>{t}</b>",
    lambda t: f"<span style='color:gray'>{t}</span>",
    lambda a, b: f" <small>[{a}, {b}]</small>",
    " ± ",
)
MD = Dialect(markdown_escaped, lambda t: f"**{t}**", lambda t: f"({t})", lambda a, b: f" [{a}, {b}]", " ± ")


Best = set[tuple[str, str]]
"""Metric and cell of each number that is the best."""


def latex_table(
    tables: Tables, summary: pd.DataFrame, plus_minus: bool = False, remarks: Sequence[str] = (), best: Best | None = None
) -> str:
    """A `table` environment that needs the packages booktabs and graphicx, and is never wider than the text.

    Best numbers are bold only where significant, see `note`. best: of `best_numbers`, if that has been called already.
    """
    head, rows = _cells(tables, summary, TEX, plus_minus, best)
    lines = [
        r"% \usepackage{booktabs,graphicx,xcolor}" if alarm(summary) else r"% \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex_escaped(note(summary, plus_minus, remarks))}}}",
        r"\vspace{4pt}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        _stacked(head),
        r"\midrule",
    ]
    lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


def _stacked(head: list[Heading]) -> str:
    """Headings on two lines, so that the columns stay narrow."""
    return "\n".join(" & ".join(latex_escaped(lines[i]).replace("{-}", "-") for _, lines in head) + r" \\" for i in (0, 1))


def markdown_table(
    tables: Tables, summary: pd.DataFrame, plus_minus: bool = False, remarks: Sequence[str] = (), best: Best | None = None
) -> str:
    """A table of pipes and a line below that says what the numbers are. best: as in `latex_table`."""
    head, rows = _cells(tables, summary, MD, plus_minus, best)
    lines = [f"| {' | '.join(text for text, _ in head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", markdown_escaped(note(summary, plus_minus, remarks))]) + "\n"


def html_table(tables: Tables, summary: pd.DataFrame) -> str:
    """A table for notebooks, every text escaped, and a line below that says what the numbers are."""
    head, rows = _cells(tables, summary, HTML, plus_minus=False)
    top = "".join(f"<th>{escape(text)}</th>" for text, _ in head)
    body = "".join(f"<tr>{''.join(f'<td>{text}</td>' for text in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table><p>{escape(note(summary))}</p>"


def note(summary: pd.DataFrame, plus_minus: bool = False, remarks: Sequence[str] = ()) -> str:
    """The note below a table. remarks: what comes before all else."""
    n = span(summary["n"].astype(int)) if len(summary) else "0"
    shown = "±: larger half of the 95 % interval, which ratios have in brackets" if plus_minus else "In brackets 95 % intervals"
    timed = sorted(set(summary["timed"].fillna(0).astype(int)) - {0})
    times = f", {timed[-1]} of them timed" if timed else ""
    speed = "Speed-up: reference time ÷ cell time, geometric mean. " if timed else ""
    labels = int(summary["labels"].max()) if len(summary) else 0
    first = "".join(f"{text[0].upper()}{text[1:]}. " for text in [alarm(summary), unsteady(summary), *remarks] if text)
    return (
        f"{first}n = {n} images a cell from {labels} labels{times}. {shown}: labels fixed, seeds resampled. Bold: better than "
        f"every other cell but the reference at {ALPHA:g}, paired sign flips corrected after Holm; equal cells share it. "
        f"{speed}Pixel difference: mean |a−b| to the reference's image. "
        "Identical: images with all tokens equal to the own baseline's, the target under the cell's guidance and precision."
    )


def write_typeset(tables: Tables, summary: pd.DataFrame, folder: Path) -> list[Path]:
    """`results.tex` and `results.md` in `folder`; nothing where there is no cell."""
    if summary.empty:
        return []
    best = best_numbers(tables, summary)
    texts = {"results.tex": latex_table(tables, summary, best=best), "results.md": markdown_table(tables, summary, best=best)}
    for name, text in texts.items():
        atomic_write(folder / name, text.encode())
    return [folder / name for name in texts]


def best_numbers(tables: Tables, summary: pd.DataFrame) -> Best:
    """The numbers that are better than those of every other cell by more than chance; no times where these are in doubt."""
    found = winners(comparisons(tables, summary))
    return {(name, cell) for name, cell in found if not (metric(name).timed and alarm(summary))}


def _cells(
    tables: Tables, summary: pd.DataFrame, way: Dialect, plus_minus: bool, best: Best | None = None
) -> tuple[list[Heading], list[list[str]]]:
    """Headings and rows as escaped text; columns without any number are left out."""
    best = best_numbers(tables, summary) if best is None else best
    columns = [m for m in table_metrics(summary) if pd.to_numeric(summary[m.name]).notna().any()]
    several = summary["n"].nunique() > 1  # else the note says it
    plain = ["identical", *(["n"] if several else [])]
    head = [("cell", ("", "cell")), *((m.plain_heading, m.lines()) for m in columns), *((text, ("", text)) for text in plain)]
    rows = []
    for row, trusted in zip(summary.to_dict("records"), sound(summary), strict=True):
        mark = " (A/A)" if row["is_baseline"] and row["timed"] else ""
        texts = [way.escape(f"{row['name']}{mark}")]
        numbers = [(m, _number(row, m, way, (m.name, row["cell"]) in best, plus_minus)) for m in columns]
        texts += [way.grey(text) if m.timed and not trusted else text for m, text in numbers]
        identical = f"{row['identical']}/{row['compared']}" if row["compared"] else way.escape(DASH)
        rows.append([*texts, identical, *([str(int(row["n"]))] if several else [])])
    return head, rows


def _number(row: dict[str, Any], metric: Metric, way: Dialect, bold: bool, plus_minus: bool) -> str:
    mean, low, high = (row[f"{metric.name}{end}"] for end in ("", "_low", "_high"))
    digits = metric.digits
    text = way.escape(number(None if pd.isna(mean) else mean, digits)).replace("{-}", "-")
    text = way.bold(text) if bold else text
    if not metric.interval or pd.isna(mean) or pd.isna(low) or low == high:
        return text
    if plus_minus and not metric.ratio:  # half of an interval of ratios is not on either side of it
        return text + way.plus_minus + number(max(high - mean, mean - low), digits)
    return text + way.interval(number(low, digits), number(high, digits))
