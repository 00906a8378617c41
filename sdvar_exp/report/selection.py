"""Chooses cells and rows by a condition without making the means wrong.

Means over images that were chosen by how they came out say nothing of the cell: `pixel_mae < 0.05` would show any cell as close
to its baseline. So a condition on a column of the summary chooses cells, by the number that the table shows; one on label, seed
or the configuration chooses rows; one on anything else that was measured on an image needs to be asked for.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.report.summary import columns, summarise
from sdvar_exp.store.results import joined, measured, select
from sdvar_exp.store.tables import Tables

NAMES = {"cell", "name", "strategy", "lossless"}
"""Columns of the summary that rows have too, with the same meaning."""
BIASED = "chosen by outcome: means are biased"


@dataclass(frozen=True)
class Chosen:
    """The tables that a condition leaves, and remarks that belong beside every number made from them."""

    tables: Tables
    remarks: tuple[str, ...] = ()


def choose(tables: Tables, where: str | None, by_outcome: bool = False) -> Chosen:
    """The cells and rows for which `where` holds, a pandas query whose parts are joined by `and`.

    Parts about label, seed and configuration choose rows; then those about columns of the summary choose cells, by the summary
    of these rows. by_outcome: every part chooses rows, by what was measured on each image as well; a remark says what that
    does. Raises `UserError` for a part that cannot be read, one about rows and cells at once, and one about a measured column
    of a row that was not asked for.
    """
    if where is None:
        return Chosen(tables)
    rows = joined(tables)
    outcome = measured(tables.samples)
    summed = frozenset(columns(own=True))
    parts = list(_parts(where))
    biased = sorted({name for part in parts for name in part.names & outcome}) if by_outcome else []
    of_cells = [part for part in parts if part.names & summed - NAMES and not (by_outcome and part.names <= set(rows))]
    for part in parts:
        if part not in of_cells:
            if part.names & outcome and not by_outcome:
                raise UserError(_refusal(part, outcome))
            rows = select(rows, part.text, summed)
    for part in of_cells:
        part.check(summed)
    if of_cells and len(rows):
        summary = summarise(rows_of(tables, rows))
        for part in of_cells:
            summary = select(summary, part.text, set(rows))
        rows = rows[rows["cell"].isin(summary["cell"])]
    return Chosen(rows_of(tables, rows), (f"{BIASED} ({', '.join(biased)})",) if biased else ())


def rows_of(tables: Tables, chosen: pd.DataFrame) -> Tables:
    """The tables with the chosen units alone."""
    units = pd.MultiIndex.from_frame(chosen[["cell", "label", "seed"]])

    def keep(name: str, frame: pd.DataFrame) -> pd.Series | np.ndarray | None:
        if name == "runs":
            return frame["cell"].isin(chosen["cell"])
        return None if name == "noise" else pd.MultiIndex.from_frame(frame[["cell", "label", "seed"]]).isin(units)

    return tables.where(keep)


@dataclass(frozen=True)
class Part:
    """One of the conditions that `and` joins; names: the columns that it reads."""

    text: str
    names: frozenset[str]
    compares_truth: bool

    def check(self, summed: frozenset[str]) -> None:
        """Whether it can be asked of the summary, of these columns."""
        if self.names - summed:
            rows, of_cells = sorted(self.names - summed), sorted(self.names & summed - NAMES)
            raise UserError(
                f"where: {self.text!r} asks rows ({', '.join(rows)}) and cells ({', '.join(of_cells)}) at once; join the two "
                "by 'and', or ask each row by its own outcome with --by-outcome"
            )
        if self.compares_truth and "is_baseline" not in self.names:
            counted = sorted(self.names & summed - NAMES)
            raise UserError(f"where: {self.text!r}: {counted[0]} of a cell is a number, e.g. identical == compared")


def _parts(where: str) -> Iterator[Part]:
    """The conditions of a query; one of pandas' own kinds that Python cannot read is one part."""
    quoted: list[str] = re.findall(r"`[^`]*`", where)
    text = where
    for i, name in enumerate(quoted):
        text = text.replace(name, f"_quoted_{i}_", 1)

    def original(word: str) -> str:
        for i, name in enumerate(quoted):
            word = word.replace(f"_quoted_{i}_", name)
        return word

    try:
        text = _booleans(text.strip().replace("\n", " "))
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, tokenize.TokenError, ValueError):
        yield Part(where, frozenset(), False)  # `select` says what is wrong with it
        return
    for node in _conjuncts(tree):
        inner = list(ast.walk(node))
        names = frozenset(original(n.id).strip("`") for n in inner if isinstance(n, ast.Name))
        truth = any(isinstance(n, ast.Constant) and isinstance(n.value, bool) for n in inner)
        yield Part(original(ast.get_source_segment(text, node) or text), names, truth)


def _conjuncts(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values:
            yield from _conjuncts(value)
    else:
        yield node


def _booleans(text: str) -> str:
    """`&` and `|` as `and` and `or`, which is how pandas reads them."""
    words = {"&": " and ", "|": " or "}
    found = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.string in words]
    for token in reversed(found):  # from the end, so that the places before stay where they are
        before, after = text[: token.start[1]].rstrip(), text[token.end[1] :].lstrip()
        text = f"{before}{words[token.string]}{after}"
    return text


def _refusal(part: Part, outcome: set[str]) -> str:
    names = ", ".join(sorted(part.names & outcome))
    return (
        f"where: {part.text!r}: {names} is measured on each image, and means over images chosen by outcome are biased; "
        "--by-outcome chooses them all the same, and says so"
    )
