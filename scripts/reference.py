"""Write docs/reference.md and the tables of docs/metrics.md from the registry; tests keep them in step."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

from sdvar_exp import registry
from sdvar_exp.metrics.quantities import own

DOCS = Path(__file__).resolve().parent.parent / "docs"
TITLES = {
    "strategy": "Strategies",
    "mask": "Masks",
    "acceptance": "Acceptance rules",
    "gamma": "γ controllers",
    "proposer": "Proposers",
    "cfg_schedule": "Guidance schedules",
}


def parameters(entry: registry.Entry) -> str:
    """`name=default` of every parameter."""
    shown = []
    for f in dataclasses.fields(entry.params):
        value = registry.plain(f.default if f.default is not dataclasses.MISSING else None)
        text = "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else str(value)
        shown.append(f"`{f.name}={text.lower() if isinstance(value, bool) else text}`")
    return " ".join(shown) or "–"


def remarks(entry: registry.Entry) -> str:
    """Declarations of an entry: its code in the SDVAR sources, what it promises, what it reads."""
    meta, out = entry.meta, list[str]()
    if "code" in meta:
        out.append(f"`sd_mask={meta['code']}`")
    if meta.get("trained") is False:
        out.append("out of distribution")
    if meta.get("lossless") in ("tokens", "distribution"):
        out.append(f"lossless ({meta['lossless']})")
    elif entry.kind == "acceptance":
        out.append("lossy")
    if entry.kind == "strategy":
        reads = meta.get("reads", ())
        out.append(
            "reads " + ("what its parameters need" if callable(reads) else ", ".join(reads) or "guidance and sampling only")
        )
    return "; ".join(out) or "–"


def render() -> str:
    """The whole page."""
    lines = [
        "# Reference",
        "",
        "Written by `python scripts/reference.py` from the registry; do not edit. Formulas and sources "
        "are in the docstrings; `sdvar-exp ls KIND NAME` prints the yaml.",
        "",
    ]
    for kind in registry.KINDS:
        lines += [f"## {TITLES[kind]} (`{kind}=…`)", "", "| name | parameters | what it does | remarks |", "|---|---|---|---|"]
        for name in registry.names(kind):
            entry = registry.get(kind, name)
            if entry.function.__module__.startswith("sdvar_exp."):
                doc = entry.doc.replace("|", "\\|")
                lines.append(f"| `{name}` | {parameters(entry)} | {doc} | {remarks(entry)} |")
        lines.append("")
    return "\n".join(lines)


def with_metrics(page: str) -> str:
    """docs/metrics.md with its two tables of registered metrics written anew, between their markers."""
    rows = ["| column | formula | unit, range |", "|---|---|---|"]
    rows += [f"| `{m.name}` | {m.formula} | {m.unit} |" for m in own() if m.measured]
    means = ["| column | formula | better | mean over images | where |", "|---|---|---|---|---|"]
    better = {-1: "smaller", 0: "", 1: "larger"}
    means += [f"| `{m.name}` | {m.formula} | {better[m.better]} | {m.average} | {m.shown} |" for m in own() if m.summarised]
    for marker, lines in (("measured", rows), ("averaged", means)):
        text = "\n".join(lines).replace("\\", "\\\\")
        page = re.sub(rf"(<!-- {marker} -->\n).*?\n(<!-- end -->)", rf"\g<1>{text}\n\g<2>", page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    metrics = DOCS / "metrics.md"
    metrics.write_text(with_metrics(metrics.read_text(encoding="utf-8")), encoding="utf-8")
    (DOCS / "reference.md").write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{DOCS / 'reference.md'}\n{metrics}\n")
