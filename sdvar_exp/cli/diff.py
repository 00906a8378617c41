"""`sdvar-exp diff A B`: what differs in configuration, and how far the results do; a regression gate with --fail-on."""

from __future__ import annotations

import argparse
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdvar_exp import registry
from sdvar_exp.cli import FAILED
from sdvar_exp.cli.options import MACHINES, Parser, say_json
from sdvar_exp.cli.studies import add_results_dir, cells, find_study, one_cell, studies
from sdvar_exp.errors import UserError
from sdvar_exp.registry import changes, choice_text
from sdvar_exp.store.files import is_study
from sdvar_exp.words import count, missing

if TYPE_CHECKING:
    import pandas as pd

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
EPILOG = """\
A and B are studies, or cells: STUDY:CELL, or CELL with --study. Cells of two studies are paired by id, else by name.
Differences are B − A over the images (label, seed) that both have, with 95 % intervals (labels fixed, seeds resampled). Of
two studies they are averaged over the cells of an image first, as cells share its noise; baselines are left out, as they
differ from themselves by nothing. A speed-up is compared as the ratio B ÷ A.

--fail-on 'pixel_mae>0.01' exits with 1 if B − A is above 0.01 for the study or for any cell of it; pixel_mae.low>0 asks that
of the interval's lower end, |pixel_mae|>0.01 of the size of the difference; speedup<0.95 of the ratio; n<20 of the number of
images. It may be given several times.
"""


def parser() -> Parser:
    known = Parser(
        prog="sdvar-exp diff", description="Differences between two cells or two studies.", epilog=EPILOG, json=MACHINES
    )
    known.add_argument("a", metavar="A", source=sides)
    known.add_argument("b", metavar="B", source=sides)
    known.add_argument("--study", help="the study in which A and B are cells", source=studies)
    known.add_argument(
        "--fail-on",
        action="append",
        default=[],
        metavar="CONDITION",
        help="exit with 1 if it holds",
        source=lambda _: [f"{metric}>" for metric in registry.names("metric")],
    )
    add_results_dir(known)
    return known


def sides(asked: argparse.Namespace) -> list[str]:
    """Studies, or cells of the one that was named."""
    return cells(asked) if asked.study or ":" in asked.current else studies(asked)


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    conditions = [Condition.read(text) for text in asked.fail_on]
    results = Path(asked.results_dir)
    a, b = (Side.find(word, asked.study, results) for word in (asked.a, asked.b))
    if (a.cell is None) != (b.cell is None):
        raise UserError("compare two studies or two cells; a cell of a study is STUDY:CELL")
    found = compare(a, b)
    broken = [line for condition in conditions for line in condition.broken(found)]
    if asked.json:
        say_json({**found.as_dict(), "failed": broken})
    else:
        print("\n".join([*found.lines(), *(f"FAILED: {line}" for line in broken)]))
    return FAILED if broken else 0


@dataclass(frozen=True)
class Side:
    """A study's folder, and the id of a cell where one is meant."""

    folder: Path
    cell: str | None = None

    @classmethod
    def find(cls, word: str, study: str | None, results: Path) -> Side:
        if study is not None:
            folder = find_study(study, results)
            return cls(folder, one_cell(word, folder))
        if is_study(results / word) or is_study(Path(word)):
            return cls(find_study(word, results))
        place, colon, cell = word.rpartition(":")
        if colon:
            folder = find_study(place, results)
            return cls(folder, one_cell(cell, folder))
        return cls(find_study(word, results))


@dataclass(frozen=True)
class Pair:
    """A cell of A and its counterpart in B: common units (label, seed), differences, metrics of which one side has a value."""

    name: str
    units: frozenset[tuple[int, int]]
    metrics: pd.DataFrame
    either: frozenset[str]

    @classmethod
    def of(cls, name: str, a: pd.DataFrame, b: pd.DataFrame) -> Pair:
        from sdvar_exp.report.compare import compared, paired_differences
        from sdvar_exp.report.source import with_rates

        units = [set(zip(rows["label"], rows["seed"], strict=True)) for rows in (a, b)]
        sides = [with_rates(rows) for rows in (a, b)]
        either = {metric for metric in compared() for rows in sides if metric in rows and rows[metric].notna().any()}
        return cls(name, frozenset(units[0] & units[1]), paired_differences(a, b), frozenset(either))


@dataclass(frozen=True)
class Comparison:
    """config: [where, value in A, value in B]. metrics: columns of `report.compare.paired_differences`.

    units: images that every pair of cells has on both sides. cells: the same by pair, with the metrics that one side has.
    """

    a: str
    b: str
    config: list[tuple[str, Any, Any]]
    only_a: list[str]
    only_b: list[str]
    units: int
    metrics: pd.DataFrame
    cells: list[Pair]

    def as_dict(self) -> dict[str, Any]:
        rows = json.loads(self.metrics.to_json(orient="records"))
        config = [{"key": key, "a": x, "b": y} for key, x, y in self.config]
        return {
            "a": self.a,
            "b": self.b,
            "config": config,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "units": self.units,
            "cells": [pair.name for pair in self.cells],
            "metrics": rows,
        }

    def lines(self) -> list[str]:
        from sdvar_exp.report.compare import compared

        ratios = {name for name, m in compared().items() if m.ratio}
        out = [f"A  {self.a}", f"B  {self.b}", ""]
        out += [f"{key}: {choice_text(x)} → {choice_text(y)}" for key, x, y in self.config] or ["the same configuration"]
        for side, names in (("A", self.only_a), ("B", self.only_b)):
            out += [f"only in {side}: {', '.join(names)}"] if names else []
        averaged = f", averaged over {count(len(self.cells), 'cell')} first" if len(self.cells) > 1 else ""
        out += ["", f"B − A over {count(self.units, 'common unit')} (label, seed){averaged}"]
        if self.metrics.empty:
            return [*out, "no metric that both have"]
        out.append(f"{'metric':22} {'A':>10} {'B':>10} {'B − A':>10}  95 % interval")
        for row in self.metrics.to_dict("records"):
            ends = "–" if missing(row["low"]) else f"[{row['low']:.4g}, {row['high']:.4g}]"
            few = f"  (n = {row['n']})" if row["n"] != self.units else ""
            change = f"×{row['difference']:.4g}" if row["metric"] in ratios else f"{row['difference']:.4g}"
            out.append(f"{row['metric']:22} {row['a']:>10.4g} {row['b']:>10.4g} {change:>10}  {ends}{few}")
        return out


def compare(a: Side, b: Side) -> Comparison:
    """Everything that `diff` says."""
    from sdvar_exp.report.compare import paired_differences
    from sdvar_exp.store import load_tables
    from sdvar_exp.store.manifest import read_cells, read_manifest

    sides = []
    for side in (a, b):
        cells = read_cells(side.folder)
        chosen = cells if side.cell is None else {side.cell: cells[side.cell]}
        tables = load_tables(side.folder, list(chosen), stages=False)
        sides.append((chosen, tables.samples, (read_manifest(side.folder) or {}).get("fingerprint", {})))
    (cells_a, rows_a, made_a), (cells_b, rows_b, made_b) = sides
    pairs = _pair(a, b, cells_a, cells_b)
    config = changes(made_a, made_b) if a.folder != b.folder else []
    for left, right in pairs:
        prefix = "" if a.cell is not None else f"{cells_a[left]['name']}: "
        found = changes(cells_a[left]["config"], cells_b[right]["config"])
        config += [(prefix + key, x, y) for key, x, y in found]
    measured = [(x, y) for x, y in pairs if a.cell is not None or not (_own_baseline(cells_a, x) or _own_baseline(cells_b, y))]
    if not measured:
        raise UserError(f"{a.folder} and {b.folder} have only baselines in common; name two cells: STUDY:CELL")
    rows_a, rows_b = (
        rows.assign(pair=rows["cell"].map({pair[side]: i for i, pair in enumerate(measured)})).dropna(subset="pair")
        for side, rows in enumerate((rows_a, rows_b))
    )
    each = [
        Pair.of(cells_a[x]["name"], rows_a[rows_a["pair"] == i], rows_b[rows_b["pair"] == i])
        for i, (x, y) in enumerate(measured)
    ]
    if not any(pair.units for pair in each):
        raise UserError(f"{a.folder} and {b.folder} have no common unit (label, seed); run both with the same labels and seeds")
    names_a, names_b = ({c["name"] for c in cells.values()} for cells in (cells_a, cells_b))
    paired_a, paired_b = {cells_a[x]["name"] for x, _ in pairs}, {cells_b[y]["name"] for _, y in pairs}
    return Comparison(
        _title(a, cells_a),
        _title(b, cells_b),
        config,
        sorted(names_a - paired_a),
        sorted(names_b - paired_b),
        len(set.intersection(*(set(pair.units) for pair in each))),
        paired_differences(rows_a, rows_b),
        each,
    )


def _own_baseline(cells: Mapping[str, Any], cell: str) -> bool:
    return bool(cells[cell]["baseline"] == cell)


def _pair(a: Side, b: Side, left: Mapping[str, Any], right: Mapping[str, Any]) -> list[tuple[str, str]]:
    if a.cell is not None and b.cell is not None:
        return [(a.cell, b.cell)]
    pairs = [(cell, cell) for cell in left if cell in right]
    by_name = {about["name"]: cell for cell, about in right.items() if cell not in left}
    pairs += [(cell, by_name[c["name"]]) for cell, c in left.items() if cell not in right and c["name"] in by_name]
    if not pairs:
        raise UserError(f"{a.folder} and {b.folder} have no cell in common; name two cells: STUDY:CELL")
    return pairs


def _title(side: Side, cells: Mapping[str, Any]) -> str:
    return str(side.folder) if side.cell is None else f"{side.folder}:{side.cell}  {cells[side.cell]['name']}"


@dataclass(frozen=True)
class Condition:
    """`metric>0.01`, `metric.low>0`, `|metric|>0.01`, `n<20`."""

    text: str
    metric: str
    end: str
    absolute: bool
    sign: str
    limit: float

    @classmethod
    def read(cls, text: str) -> Condition:
        from sdvar_exp.report.compare import compared

        found = re.fullmatch(r"\s*(\|?)(\w+)(?:\.(low|high))?(\|?)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*", text)
        try:
            limit = float(found[6]) if found else math.nan
        except ValueError:
            limit = math.nan
        if found is None or found[1] != found[4] or not math.isfinite(limit):
            raise UserError(f"--fail-on {text!r} cannot be read; write e.g. 'pixel_mae>0.01' or '|correlation|>0.05'")
        if found[2] not in (known := [*compared(), "n"]):
            raise UserError(f"--fail-on {text!r}: there is no metric {found[2]!r}; metrics are {', '.join(known)}")
        return cls(text.strip(), found[2], found[3] or "difference", bool(found[1]), found[5], limit)

    def broken(self, found: Comparison) -> list[str]:
        """One line if the condition holds, or if it cannot be told: a gate must not pass for want of data.

        It is asked of the mean over all cells, then of each of them: many that stay as they were hide none that does not.
        """
        if self.metric == "n":
            return self._holds(found.units)
        from sdvar_exp.report.compare import compared

        value = self._value(found.metrics)
        if value is None:
            return [f"{self.text}: {self.metric} has no value on both sides"]
        if compared()[self.metric].ratio and (self.absolute or self.limit <= 0):
            return [f"{self.text}: {self.metric} is the ratio B ÷ A, 1 for no change; write e.g. {self.metric}<0.95"]
        out = self._holds(value)
        for pair in found.cells if not out else ():
            value = self._value(pair.metrics)
            if value is not None:
                out += [f"{line} for {pair.name}" for line in self._holds(value)]
            elif self.metric in pair.either:
                out.append(f"{self.text}: {self.metric} of {pair.name} has no value on both sides")
        return out

    def _value(self, metrics: pd.DataFrame) -> float | None:
        rows = metrics[metrics["metric"] == self.metric]
        value = None if rows.empty else rows.iloc[0][self.end]
        return None if value is None or missing(value) else float(value)

    def _holds(self, value: float) -> list[str]:
        if self.absolute:
            value = abs(value)
        return [f"{self.text}: it is {value:.6g}"] if OPERATORS[self.sign](value, self.limit) else []
