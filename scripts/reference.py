"""Write docs/reference.md and the tables of docs/metrics.md from the registry; tests keep them in step."""

import sys
from pathlib import Path

from sdvar_exp.cli.reference import render, with_metrics

DOCS = Path(__file__).resolve().parent.parent / "docs"

if __name__ == "__main__":
    metrics = DOCS / "metrics.md"
    metrics.write_text(with_metrics(metrics.read_text(encoding="utf-8")), encoding="utf-8")
    (DOCS / "reference.md").write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{DOCS / 'reference.md'}\n{metrics}\n")
