"""`sdvar-exp quality`: how good each cell's images are as a set, from the features in the ledger."""

from __future__ import annotations

import json
from pathlib import Path

from sdvar_exp.cli.studies import find_study, study_parser
from sdvar_exp.errors import UserError


def main(argv: list[str]) -> int:
    parser = study_parser("quality", "Class accuracy, and distances of each cell's images to real data and to the baseline's. "
                          "Writes tables/quality.csv and .parquet.")
    parser.add_argument("--json", action="store_true", help="for machines")
    asked = parser.parse_args(argv)
    folder = find_study(asked.study, Path(asked.results_dir))
    from sdvar_exp.report.quality import render_quality, write_quality

    table = write_quality(folder)
    if table.empty:
        raise UserError("no image of this study has features: they are kept for model=embedded; for other models export the "
                        "images with `sdvar-exp export`")
    if asked.json:
        print(json.dumps(json.loads(table.to_json(orient="records")), indent=1))
    else:
        print(render_quality(table))
        print(f"\ntable    {folder / 'tables' / 'quality.csv'}")
    return 0
