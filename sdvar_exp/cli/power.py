"""`sdvar-exp power`: how many labels × seeds show a given effect, from the spread of a study's cells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdvar_exp import registry
from sdvar_exp.cli.options import Parser, say_json
from sdvar_exp.cli.studies import cells, one_cell, study_of, study_parser
from sdvar_exp.errors import UserError
from sdvar_exp.words import aligned, missing

if TYPE_CHECKING:
    import pandas as pd

LEAST_SHARE = 1e-9
FEW = """\
*: under {} degrees of freedom (images less labels) the spread is hardly known, nor are the seeds that it asks for:
decode more seeds first"""
EXAMPLES = """\
A pilot study of a few seeds says how many a claim needs. Effects: a ratio for speed-ups, else a difference.

  sdvar-exp power demo --metric speedup --effect 1.05
  sdvar-exp power demo --metric pixel_mae --effect 0.005 --against test3
  sdvar-exp power --identical 0.01       how many images must all be identical to say that fewer than 1 % differ
"""


def parser() -> Parser:
    from sdvar_exp.metrics.quantities import tabled

    known = study_parser("power", "How many labels × seeds show a given effect.", EXAMPLES)
    known.add_argument(
        "--metric",
        default="speedup",
        help=f"{', '.join(m.name for m in tabled())} (default: speedup)",
        source=lambda _: registry.names("metric"),
    )
    known.add_argument("--effect", type=float, help="what is to be shown: 1.05 for a speed-up, else a difference")
    known.add_argument(
        "--against", metavar="CELL", help="differences to this cell, paired; default: to a fixed value", source=cells
    )
    known.add_argument("--power", type=float, default=0.8, help="chance of showing it (default: 0.8)")
    known.add_argument("--level", type=float, default=0.95, help="level of the interval (default: 0.95)")
    known.add_argument("--labels", type=int, help="labels to plan with (default: those of the study)")
    known.add_argument("--identical", type=float, metavar="SHARE", help="plan a claim of k/N identical instead")
    return known


def main(argv: list[str]) -> int:
    from sdvar_exp.metrics.quantities import metric

    asked = parser().parse_args(argv)
    if not 0 < asked.level < 1:
        raise UserError(f"--level must lie in (0, 1), got {asked.level}")
    if asked.identical is not None:
        return _identical(asked.identical, asked.level, asked.json)
    if asked.effect is None:
        raise UserError("--effect is needed: what difference is to be shown? e.g. --metric speedup --effect 1.05")
    folder = study_of(asked)
    from sdvar_exp.metrics.statistics import LEAST_FREEDOM
    from sdvar_exp.report.power import power_table
    from sdvar_exp.report.source import read_tables

    against = one_cell(asked.against, folder) if asked.against else None
    table = power_table(
        read_tables(folder),
        asked.metric,
        asked.effect,
        against=against,
        wanted=asked.power,
        level=asked.level,
        labels=asked.labels,
    )
    if asked.json:
        say_json(json.loads(table.to_json(orient="records")))
    else:
        print(_text(table))
        ratio = metric(asked.metric).ratio
        heading = metric(asked.metric).plain_heading
        what = f"{asked.effect:g}× {heading}" if ratio else f"difference of {asked.effect:g} in {asked.metric}"
        print(
            f"\nseeds per label that show a {what} with power {asked.power:g} at the {100 * asked.level:g} % level, with the "
            "spread within\na label as measured, and cautiously with its upper 80 % bound; images: labels × seeds"
        )
        if (table["freedom"] < LEAST_FREEDOM).any():
            print(FEW.format(LEAST_FREEDOM))
    return 0


def _identical(share: float, level: float, as_json: bool) -> int:
    from sdvar_exp.report.power import images_needed

    if not LEAST_SHARE <= share < 1:
        raise UserError(f"--identical must lie in [{LEAST_SHARE:g}, 1), got {share}")
    n = images_needed(share, level)
    if as_json:
        say_json({"share": share, "level": level, "images": n})
    else:
        print(f"{n} of {n} identical images show that fewer than {100 * share:g} % differ, at {100 * level:g} % confidence")
    return 0


def _text(table: pd.DataFrame) -> str:
    from sdvar_exp.metrics.statistics import LEAST_FREEDOM

    head = ["cell", "n", "labels", "spread", "power now", "seeds", "cautious", "images"]
    lines = []
    for row in table.to_dict("records"):
        few = " *" if row["freedom"] < LEAST_FREEDOM else ""
        line = [f"{row['name']}{few}", str(row["n"]), str(row["at_labels"]), f"{row['spread']:.3g}", f"{row['power_now']:.2f}"]
        lines.append([*line, *(_count(row[key]) for key in ("needed", "needed_cautious", "images"))])
    return "\n".join(aligned([head, *lines], numbers=True))


def _count(value: float | None) -> str:
    return "> 1e6" if value is None or missing(value) else f"{value:.0f}"
