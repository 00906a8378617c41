"""`sdvar-exp report`: one HTML file of a study."""

from __future__ import annotations

import json
from pathlib import Path

from sdvar_exp.cli.options import Parser
from sdvar_exp.cli.studies import find_study, study_parser
from sdvar_exp.guest import expand
from sdvar_exp.words import size


def parser() -> Parser:
    known = study_parser(
        "report",
        "Write one HTML file of a study that needs no network and no other file: summary, table of "
        "cells to sort and filter, figures, images compared with a slider, decodes stage by stage, "
        "configuration and provenance. From the results store alone; draws the figures if there "
        "are none. A run of up to 2000 images ends with it too; one of more says this command.",
    )
    known.add_argument("--out", type=expand, help="the file (default: report.html in the study's folder, beside its images)")
    known.add_argument("--json", action="store_true", help="for machines")
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    folder = find_study(asked.study, Path(asked.results_dir))
    from sdvar_exp.report.page import write_page

    faults: list[str] = []
    path = write_page(folder, asked.out, faults=faults)
    count_bytes = path.stat().st_size
    if asked.json:
        print(
            json.dumps(
                {"folder": str(folder), "page": str(path), "bytes": count_bytes, "faults": faults}, indent=1, ensure_ascii=False
            )
        )
    else:
        print(f"page     {path}  ({size(count_bytes)})")
    for line in faults if not asked.json else ():
        print(f"failed   {line}")
    return 1 if faults else 0
