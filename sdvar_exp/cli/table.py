"""`sdvar-exp table`: the result table of a study, from what lies on disk; imports no torch."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from pathlib import Path

from sdvar_exp.cli.options import Parser
from sdvar_exp.errors import UserError

STABLE = ("samples", "stages", "runs")


def main(argv: list[str]) -> int:
    parser = Parser(prog="sdvar-exp table", description="The result table of a study.")
    parser.add_argument("study", nargs="?", help="its folder, or its name in the results folder; default: the only one")
    parser.add_argument("--results-dir", default="results", help="where studies lie (default: results)")
    parser.add_argument("--stable", nargs="?", const="samples", choices=STABLE, metavar="TABLE",
                        help="csv that a repetition reproduces byte for byte: samples (default), stages or runs")
    parser.add_argument("--json", action="store_true", help="the summary for machines")
    asked = parser.parse_args(argv)
    folder = find_study(asked.study, Path(asked.results_dir))
    if asked.stable:
        from sdvar_exp.store import stable_csv

        sys.stdout.write(stable_csv(folder, asked.stable))
        return 0
    from rich.console import Console

    from sdvar_exp.report import render_table, summarise
    from sdvar_exp.store import load_tables

    tables = load_tables(folder)
    summary = summarise(tables)
    if asked.json:
        print(summary.to_json(orient="records", indent=1, force_ascii=False))
        return 0
    for note in tables.notes:
        print(f"note: {note}", file=sys.stderr)
    render_table(summary, Console())
    return 0


def find_study(name: str | None, results_dir: Path) -> Path:
    """The folder of a study; `UserError` naming the studies there are."""
    known = sorted(path.parent.name for path in results_dir.glob("*/manifest.json"))
    if name is None:
        if len(known) == 1:
            return results_dir / known[0]
        raise UserError(f"which study? {_listed(known, results_dir)}")
    for folder in (Path(name), results_dir / name):
        if (folder / "manifest.json").is_file():
            return folder
    near = get_close_matches(name, known, n=1)
    raise UserError(f"there is no study {name!r}; " + (f"did you mean {near[0]!r}?" if near else _listed(known, results_dir)))


def _listed(known: list[str], results_dir: Path) -> str:
    if known:
        return f"{results_dir} has {', '.join(known)}"
    return f"{results_dir} has none; give its folder, or --results-dir"
