"""Put the result table of the reference study into the README: `python scripts/readme.py` (a test keeps them in step)."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- reference table: begin -->", "<!-- reference table: end -->"


def render(readme: str, table: str) -> str:
    """The README with `table` between its markers."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table.strip()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    page = ROOT / "README.md"
    table = (ROOT / "results" / "reference" / "tables" / "results.md").read_text(encoding="utf-8")
    page.write_text(render(page.read_text(encoding="utf-8"), table), encoding="utf-8")
    sys.stdout.write(f"{page}\n")
