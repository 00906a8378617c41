"""From timing records (baseline and cell decoded in turn, several repeats) to the time columns of a unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

PARTS = ("draft_ms", "verify_ms", "accept_ms", "fhat_ms")

Record = Mapping[str, Any]


def unit_times(records: Sequence[Record]) -> dict[str, Any]:
    """Time columns of one unit from its repeats.

    Repeats beside another worker are left out; where there is no other, latencies are theirs, `contended` is true and
    the speed-ups are null. speedup: exp of the mean of log(baseline ÷ cell) over the repeats.
    """
    clean = [r for r in records if not r.get("contended")]
    used = clean or records
    times = {name: _median(timing_row(r).get(name) for r in used) for name in PARTS}
    own = geometric_mean(_ratio(r, (), "own") for r in clean)
    return {
        **({} if own is None else {"speedup_own": own}),
        "latency_ms": _median(r.get("cell_ms") for r in used),
        "baseline_latency_ms": _median(r.get("baseline_ms") for r in used),
        "speedup": geometric_mean(_ratio(r, ()) for r in clean),
        "speedup_with_vae": geometric_mean(_ratio(r, ("decode",)) for r in clean),
        "vae_ms": _median(r.get("cell_decode_ms") for r in used),
        **times,
        "contended": not clean,
    }


def timing_row(record: Record) -> dict[str, Any]:
    """A timing record as a row of `timings`: the breakdown becomes columns."""
    row = {k: v for k, v in record.items() if k not in ("breakdown", "type", "fingerprint")}
    return {**row, **(record.get("breakdown") or {})}


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """exp of the mean log of the positive values; None if there are none."""
    logs = [math.log(v) for v in values if v is not None and v > 0]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


def _ratio(record: Record, parts: tuple[str, ...], above_of: str = "baseline") -> float | None:
    """Baseline (or `own` baseline) ÷ cell of one repeat; parts: what is added to both, e.g. the VAE decode."""
    names = ("ms", *(f"{p}_ms" for p in parts))
    above = [float(v) for n in names if (v := record.get(f"{above_of}_{n}")) is not None]
    below = [float(v) for n in names if (v := record.get(f"cell_{n}")) is not None]
    if not len(above) == len(below) == len(names) or not sum(below) > 0:
        return None
    return sum(above) / sum(below)


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(median(known)) if known else None
