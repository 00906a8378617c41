"""A trace as a table for people: one line per call, one per round. Reads records only; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sdvar_exp.words import aligned

Record = dict[str, Any]

COLUMNS = ("call", "model", "stages", "rows", "input", "dtype, device", "mask", "cache", "guidance", "ms")


def table(records: Sequence[Record]) -> list[str]:
    """The lines of one traced decode, columns aligned."""
    rows = [COLUMNS, *(call(r) for r in records if r["event"] == "call")]
    calls = iter(aligned(rows))
    out = [title(records), next(calls)]
    for record in records:
        if record["event"] == "call":
            out.append(next(calls))
        elif record["event"] == "round":
            out.append("  " + round_line(record))
        elif record["event"] == "error":
            out.append(f"  stopped here: {record['error']}")
    return out


def title(records: Sequence[Record]) -> str:
    start, end = records[0], records[-1]
    units = ", ".join(f"label {u['label']} seed {u['seed']}" for u in start["units"])
    counts = end.get("counts")
    calls = f": target calls {counts['target_calls']}, draft calls {counts['draft_calls']}" if counts else ""
    return f"{start['name'] or start['cell']}, {units}{calls}"


def call(record: Record) -> tuple[str, ...]:
    """The cells of one call."""
    x, cache, mask = record["input"], record["cache"], record["mask"]
    last = record["stop"] - 1
    stages = str(last) if record["first"] == last else f"{record['first']}-{last}"
    shown = "all" if mask is None else f"{'×'.join(map(str, mask['shape']))}, {mask['open']} open"
    guidance = " ".join(f"{t:.3g}" for t in record["guidance"]) if record["halves"] == 2 else "none"
    return (
        str(record["call"]),
        record["model"],
        stages,
        f"{record['rows']}×{record['halves']}",
        "×".join(map(str, x["shape"])),
        f"{x['dtype']} {x['device']}",
        shown,
        f"{cache['before']}→{cache['after']}",
        guidance,
        f"{record['ms']:.1f}{'' if record['finite'] else '  NaN or infinite logits'}",
    )


def round_line(record: Record) -> str:
    """One round in words."""
    why = f" ({record['reason']})" if record["reason"] else ""
    stages = "; ".join(_stage(s) for s in record["stages"]) or "nothing judged"
    held = ", ".join(f"{role} {rows}" for role, rows in record["cache"].items())
    return (
        f"round {record['round']}: γ={record['gamma']}{why}; {stages}; {record['committed']} committed; "
        f"cache {held}; {record['total_ms']:.1f} ms"
    )


def _stage(stage: Record) -> str:
    word = "passed" if stage["passed"] else "failed"
    return f"stage {stage['stage']} {word} (match {_each(stage['match'])}, accepted {_each(stage['acceptance'])})"


def _each(values: Iterable[float]) -> str:
    return "/".join(f"{v:.2f}" for v in values)
