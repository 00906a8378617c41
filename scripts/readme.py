"""Put the result tables of the kept studies into the README: `python scripts/readme.py` (a test keeps them in step)."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ("front", "reference")


def render(readme: str) -> str:
    """The README with each study's `tables/results.md` between its markers."""
    for study in STUDIES:
        begin, end = (f"<!-- {study} table: {word} -->" for word in ("begin", "end"))
        table = (ROOT / "results" / study / "tables" / "results.md").read_text(encoding="utf-8").strip()
        before, rest = readme.split(begin)
        readme = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return readme


if __name__ == "__main__":
    page = ROOT / "README.md"
    page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{page}\n")
