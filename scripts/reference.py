"""Write docs/reference.md from the registry: `python scripts/reference.py` (a test keeps the page in step)."""

import sys
from pathlib import Path

from sdvar_exp.cli.reference import render

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"

if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
