"""Put result tables of the kept studies, and the drawing of strategies, into README.md and docs/guide.md.

`python scripts/readme.py`; a test keeps them in step.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/guide.md")
FIVE = (
    "sequential (A/A)",
    "hybrid until=3 exact γ=3",
    "hybrid until=5 exact γ=3",
    "collaborative N=5",
    "parallel_v1 exact γ=2",
)
"""Rows of the study `front` that the README shows."""
STAGES = 10
MAKERS = {
    "sequential": "T" * 10,
    "draft_only": "D" * 10,
    "collaborative N=5": "T" * 5 + "D" * 5,
    "test3 K=5": "D" * 5 + "T" * 5,
    "hybrid until=5": "V" * 5 + "D" * 5,
    "parallel_v1": "V" * 10,
    "dynamic_gamma": "V" * 10,
}
"""Who makes each of the ten stages: the target alone, the draft alone, or the draft with the target as verifier."""


def render(text: str) -> str:
    """A page with each study's `tables/results.md` and the drawing between the markers that it has."""
    made = {"front": _table("front", FIVE), "reference": _table("reference"), "strategies": drawing()}
    for name, content in made.items():
        begin, end = (f"<!-- {name} table: {word} -->" for word in ("begin", "end"))
        if begin in text:
            before, rest = text.split(begin)
            text = f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
    return text


def _table(study: str, names: tuple[str, ...] = ()) -> str:
    """The study's table, of some cells alone where they are named, with the line that says what its numbers are."""
    lines = (ROOT / "results" / study / "tables" / "results.md").read_text(encoding="utf-8").strip().splitlines()
    if not names:
        return "\n".join(lines)
    rows = {line.split(" | ")[0].removeprefix("| ").replace("\\", ""): line for line in lines if line.startswith("| ")}
    return "\n".join([*lines[:2], *(rows[name] for name in names), "", lines[-1]])


def drawing() -> str:
    """One row of boxes per strategy."""
    width = max(map(len, MAKERS))
    rows = [f"{'stage'.ljust(width)}  {' '.join(f' {k} ' for k in range(STAGES))}"]
    rows += [f"{name.ljust(width)}  {' '.join(f'[{one}]' for one in makers)}" for name, makers in MAKERS.items()]
    key = "[T] target alone   [D] draft alone   [V] proposed by the draft, verified by the target"
    return "\n".join(["<!-- shown: a drawing -->", "```text", *(row.rstrip() for row in rows), "", key, "```"])


if __name__ == "__main__":
    for name in PAGES:
        page = ROOT / name
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
        sys.stdout.write(f"{page}\n")
