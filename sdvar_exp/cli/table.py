"""`sdvar-exp table`: the result table of a study, from what lies on disk; imports no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdvar_exp.cli.options import Parser, tell
from sdvar_exp.cli.studies import study_of, study_parser
from sdvar_exp.errors import UserError
from sdvar_exp.words import choices_text, did_you_mean, missing

if TYPE_CHECKING:
    import pandas as pd

    from sdvar_exp.report.selection import Chosen

STABLE = ("samples", "stages", "runs")
EXAMPLES = """\
columns of --group are those of load_results: samples, and the configuration as strategy_entry_num, acceptance_tau,
gamma_value, … --where reads the same for label, seed and configuration, which choose rows; a column of the summary (--csv lists
them) chooses cells by the number that the table shows: images chosen by how they came out would make every mean wrong.

  sdvar-exp table guide --where "strategy == 'test3' and label < 5"
  sdvar-exp table guide --where "pixel_mae < 0.05 and target_calls < 6"
  sdvar-exp table guide --group strategy,gamma_value
  sdvar-exp table guide --interactions --csv
  sdvar-exp table guide --stable > samples.csv
  sdvar-exp table guide --latex > table.tex
  sdvar-exp table guide --macros > numbers.tex
"""


def parser() -> Parser:
    known = study_parser("table", "The result table of a study.", EXAMPLES, "the summary for machines")
    known.add_argument(
        "--stable",
        nargs="?",
        const="samples",
        choices=STABLE,
        metavar="TABLE",
        help="csv that a repetition reproduces byte for byte: samples (default), stages or runs",
    )
    known.add_argument("--where", metavar="QUERY", help="only the rows and cells that a pandas query chooses")
    known.add_argument("--by-outcome", action="store_true", help="--where also chooses images by how they came out: biased")
    known.add_argument(
        "--group", metavar="COLUMNS", help="means by these columns (comma-separated) instead of by cell", source=columns
    )
    factors = known.add_mutually_exclusive_group()
    factors.add_argument(
        "--effects", action="store_true", help="instead: what each change of one factor does, paired, with Holm's p"
    )
    factors.add_argument(
        "--interactions", action="store_true", help="instead: whether changes of two factors depend on each other"
    )
    known.add_argument("--superseded", action="store_true", help="with cells whose own entries were changed since")
    known.add_argument("--sort", metavar="COLUMN", help="by a column of the summary, --sort -COLUMN from the largest on")
    known.add_argument("--csv", action="store_true", help="the summary as csv")
    known.add_argument("--latex", action="store_true", help="the table for a paper (booktabs)")
    known.add_argument("--markdown", action="store_true", help="the table in Markdown")
    known.add_argument("--macros", action="store_true", help="every number as a LaTeX macro with the hash of its data")
    known.add_argument("--plus-minus", action="store_true", help="with these two: ± instead of brackets")
    return known


def columns(asked: argparse.Namespace) -> list[str]:
    """Columns that --group can take, from the configuration of the study's cells; behind a comma, those that are left."""
    from sdvar_exp.store.manifest import read_cells

    found = {"label": None, "seed": None}
    for about in read_cells(study_of(asked)).values():
        for key, value in about["config"].items():
            inner = value if isinstance(value, dict) else {"name": value}
            found |= dict.fromkeys(key if word == "name" else f"{key}_{word}" for word in inner)
    done, comma, _ = asked.current.rpartition(",")
    return [f"{done}{comma}{name}" for name in found if name not in done.split(",")]


def main(argv: list[str]) -> int:
    asked = parser().parse_args(_with_minus(argv))
    folder = study_of(asked)
    if asked.stable:
        if asked.where or asked.group or asked.json or asked.sort or asked.effects or asked.interactions:
            raise UserError(
                "--stable gives the whole table; leave out --where, --group, --sort, --json, --effects and --interactions"
            )
        from sdvar_exp.store import stable_csv

        sys.stdout.write(stable_csv(folder, asked.stable))
        return 0
    if (asked.effects or asked.interactions) and (asked.group or asked.latex or asked.markdown or asked.macros):
        raise UserError("--effects and --interactions go with --where, --sort, --csv and --json; leave out the others")
    if (asked.latex or asked.markdown or asked.macros) and (asked.group or asked.json or asked.csv):
        raise UserError("--latex, --markdown and --macros show the summary by cell; leave out --group, --json and --csv")
    if asked.macros:
        if asked.where:
            raise UserError("--macros gives the whole table, as `verify --tex` checks it; leave out --where")
        from sdvar_exp.report.macros import macros

        sys.stdout.write(macros(_chosen(folder, None).tables))
        return 0
    chosen = _chosen(folder, asked.where, asked.by_outcome, asked.superseded)
    if asked.effects or asked.interactions:
        _say(chosen)
        print(_of_factors(chosen, asked))
        return 0
    if asked.latex or asked.markdown:
        _say(chosen)
        sys.stdout.write(_typeset(chosen, asked.latex, asked.plus_minus, asked.sort))
        return 0
    summary = _sorted(_summary(chosen, asked.group), asked.sort)
    tell("note", chosen.remarks)
    if asked.json:
        summary = summary if asked.group else _with_rounds(summary, chosen.tables.samples)
        print(summary.to_json(orient="records", indent=1, force_ascii=False))
        return 0
    _say(chosen)
    if asked.csv or asked.group:
        print(_csv(summary) if asked.csv else _plain(summary))
        return 0
    from sdvar_exp.report import render_table
    from sdvar_exp.screen import Screen

    render_table(summary, Screen())
    return 0


def _with_minus(argv: list[str]) -> list[str]:
    """`--sort -COLUMN` as `--sort=-COLUMN`, which argparse would take for an option."""
    words = list(argv)
    for i in range(len(words) - 2, -1, -1):
        if words[i] == "--sort" and words[i + 1].startswith("-") and words[i + 1][1:2].isalpha():
            words[i : i + 2] = ["=".join(words[i : i + 2])]
    return words


def _say(chosen: Chosen) -> None:
    tell("note", getattr(chosen.tables, "notes", ()))


def _chosen(folder: Path, where: str | None, by_outcome: bool = False, superseded: bool = False) -> Chosen:
    from sdvar_exp.report.selection import choose
    from sdvar_exp.report.source import read_tables

    chosen = choose(read_tables(folder, stages=False, superseded=superseded), where, by_outcome)  # type: ignore[arg-type]
    if where and chosen.tables.samples.empty:
        raise UserError(f"--where {where!r} chooses no row of {folder}")
    return chosen


def _summary(chosen: Chosen, group: str | None) -> pd.DataFrame:
    """By cell, or by group."""
    if group is None:
        from sdvar_exp.report import summarise

        return summarise(chosen.tables)
    from sdvar_exp.report.compare import grouped
    from sdvar_exp.store.results import joined

    if chosen.tables.samples.empty:
        raise UserError("there are no rows to group yet")
    rows, by = joined(chosen.tables), list(dict.fromkeys(word.strip() for word in group.split(",") if word.strip()))
    found = grouped(rows, by)
    _say_of_reference(rows, by, set(chosen.tables.runs["baseline"]))
    return found


def _say_of_reference(rows: pd.DataFrame, by: list[str], baselines: set[str]) -> None:
    """Note that some group averages the reference, which differs from itself in nothing, with other cells."""
    inside = rows["cell"].isin(baselines)
    if (rows.assign(_inside=inside).groupby(by, dropna=False)["_inside"].nunique() > 1).any():
        ids = sorted(set(rows.loc[inside, "cell"]))
        without = f"cell != '{ids[0]}'" if len(ids) == 1 else f"cell not in {ids}"
        print(
            f'note: the reference is averaged in, whose differences are 0 by construction; without it: --where "{without}"',
            file=sys.stderr,
        )


def _with_rounds(summary: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """The summary with what no single number holds: acceptance rate by stage, and rounds by stages committed."""
    from sdvar_exp.store.rounds import commits_per_round, rate_by_stage

    if not {"stage_verdicts", "commit_trace"} <= set(samples):
        return summary
    of = {cell: samples[samples["cell"] == cell] for cell in summary["cell"]}
    rates = [{str(k): rate for k, (rate, _) in rate_by_stage(of[cell]["stage_verdicts"]).items()} for cell in summary["cell"]]
    commits = [{str(k): n for k, n in commits_per_round(of[cell]["commit_trace"]).items()} for cell in summary["cell"]]
    return summary.assign(acceptance_rate_by_stage=rates, rounds_by_stages_committed=commits)


def _sorted(summary: pd.DataFrame, column: str | None) -> pd.DataFrame:
    """In the order of a column, of equal values in the order of the plan; rows without a value last."""
    if column is None:
        return summary
    name = column.removeprefix("-")
    if name not in summary:
        known = list(map(str, summary.columns))
        raise UserError(
            f"there is no column {name!r} to sort by{did_you_mean(name, known, choices_text(known, 'columns are'))}"
        )
    return summary.sort_values(name, ascending=not column.startswith("-"), kind="stable", ignore_index=True)


def _typeset(chosen: Chosen, latex: bool, plus_minus: bool, sort: str | None) -> str:
    from sdvar_exp.report import summarise
    from sdvar_exp.report.typeset import latex_table, markdown_table

    way = latex_table if latex else markdown_table
    return way(chosen.tables, _sorted(summarise(chosen.tables), sort), plus_minus, chosen.remarks)


def _of_factors(chosen: Chosen, asked: argparse.Namespace) -> str:
    """Effects of single factors, or interactions of two, as text, csv or JSON."""
    from sdvar_exp.report.effects import effects, interactions

    rows = _sorted((effects if asked.effects else interactions)(chosen.tables), asked.sort)
    if asked.json:
        return str(rows.to_json(orient="records", indent=1, force_ascii=False))
    if asked.csv:
        return _csv(rows)
    if rows.empty:
        return (
            f"no {'two' if asked.effects else 'four'} cells differ in {'one factor' if asked.effects else 'two factors'} alone"
        )
    shown = rows.drop(columns=["low", "high"]).astype(object)
    shown["effect"] = [_interval(*values) for values in zip(rows["effect"], rows["low"], rows["high"], strict=True)]
    return str(shown.to_string(index=False, na_rep="–", float_format=lambda value: f"{value:.3g}"))


def _csv(summary: pd.DataFrame) -> str:
    from sdvar_exp.store.stable import frame_csv

    return frame_csv(summary).rstrip("\n")


def _plain(summary: pd.DataFrame) -> str:
    """Groups for people: means with their intervals."""
    shown = summary[[c for c in summary if not str(c).endswith(("_low", "_high"))]].astype(object)
    for name in [c for c in summary if f"{c}_low" in summary]:
        shown[name] = [
            _interval(*values) for values in zip(*(summary[f"{name}{end}"] for end in ("", "_low", "_high")), strict=True)
        ]
    return str(shown.to_string(index=False, na_rep="–"))


def _interval(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None or missing(mean):
        return "–"
    if low is None or high is None or missing(low) or low == high:
        return f"{mean:.3g}"
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"
