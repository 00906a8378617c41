"""`sdvar-exp report`: one HTML file of a study."""

from __future__ import annotations

from pathlib import Path

from sdvar_exp.cli.studies import find_study, size, study_parser


def main(argv: list[str]) -> int:
    parser = study_parser("report", "Write one HTML file of a study that needs no network and no other file: summary, table of "
                                    "cells to sort and filter, figures, images compared with a slider, decodes stage by stage, "
                                    "configuration and provenance. From the results store alone; draws the figures if there "
                                    "are none. A run of up to 2000 images ends with it too; one of more says this command.")
    parser.add_argument("--out", help="the file (default: report.html in the study's folder, where it finds all images)")
    asked = parser.parse_args(argv)
    folder = find_study(asked.study, Path(asked.results_dir))
    from sdvar_exp.report.page import write_page

    path = write_page(folder, asked.out)
    print(f"page     {path}  ({size(path.stat().st_size)})")
    return 0
