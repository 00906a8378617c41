"""`sdvar-exp verify`: compare a study's figures, or the numbers of a paper, with its data. Exit code 1 if one differs."""

from __future__ import annotations

from pathlib import Path

from sdvar_exp.cli.options import Parser, say_json
from sdvar_exp.cli.studies import study_of, study_parser
from sdvar_exp.errors import UserError
from sdvar_exp.words import aligned

EXAMPLES = """\
A figure agrees if the hash of its data is that of the file, and its pixels are, up to a tolerance for other versions of
fonts and libraries.

  sdvar-exp verify demo
  sdvar-exp verify paper/figures --json
  sdvar-exp verify demo --tex paper/numbers.tex
"""


def parser() -> Parser:
    known = study_parser("verify", "Draw figures again from the study's tables and compare them with the files.", EXAMPLES)
    known.add_argument(
        "--tolerance", type=float, default=None, metavar="SHARE", help="share of pixels that may differ (default: 0.002)"
    )
    known.add_argument(
        "--tex", type=Path, metavar="FILE", help="check the macros of `table --macros` in this file instead of figures"
    )
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    from sdvar_exp.report.figures import INDEX
    from sdvar_exp.report.verify import SHARE, verify

    if asked.tolerance is not None and not 0 <= asked.tolerance <= 1:
        raise UserError(f"--tolerance must lie in [0, 1], got {asked.tolerance}")
    given = Path(asked.study) if asked.study else None
    folder = given if given and (given / INDEX).is_file() else study_of(asked)
    if asked.tex:
        from sdvar_exp.report.macros import check_macros
        from sdvar_exp.report.source import read_tables

        checked = check_macros(read_tables(folder, stages=False), asked.tex)
    else:
        checked = verify(folder, SHARE if asked.tolerance is None else asked.tolerance)
    failed = sum(bool(c.problem) for c in checked)
    if asked.json:
        content = {
            "folder": str(folder),
            "same": not failed,
            "numbers" if asked.tex else "figures": [c.as_dict() for c in checked],
        }
        say_json(content)
    else:
        print("\n".join(aligned([(c.name, c.problem or "same") for c in checked])))
        what = "numbers" if asked.tex else "figures"
        print(f"\n{len(checked) - failed} of {len(checked)} {what} agree with the data")
    return 1 if failed or not checked else 0
