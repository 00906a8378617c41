"""From timing records (baseline and cell decoded in turn, several repeats) to the time columns of a unit.

One record is one *pair*. Now and then the machine is held up during one of its decodes; the median of a unit's pairs hides
that as long as most of them are sound. `measure_again` says when more pairs are needed. They join the others and none is
dropped, so what a unit is worth is never chosen by its value.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist, median
from typing import Any

PARTS = ("draft_ms", "verify_ms", "accept_ms", "fhat_ms")
FAR = 4.0
"""Standard deviations, told by the median absolute deviation, that are far off the median of a cell's log ratios."""
UNSTEADY = 0.1
"""A cell whose pairs vary by more than this share is marked as unsteady, as torch.utils.benchmark warns from a tenth on."""
NEAR = math.log(1 + UNSTEADY)
"""Log ratios as near to the median as this are never far off."""
FEWEST = 3
"""Pairs of a cell without which none of them is called far off."""

Record = Mapping[str, Any]


def unit_times(records: Sequence[Record]) -> dict[str, Any]:
    """Time columns of one unit from its repeats.

    Repeats beside another worker are left out; where there is no other, latencies are theirs, `contended` is true and
    the speed-ups are null. speedup: median over the repeats of baseline ÷ cell.
    """
    clean = [r for r in records if not r.get("contended")]
    used = clean or records
    times = {name: _median(timing_row(r).get(name) for r in used) for name in PARTS}
    own = median_ratio(_ratio(r, (), "own") for r in clean)
    return {
        **({} if own is None else {"speedup_own": own}),
        "latency_ms": _median(r.get("cell_ms") for r in used),
        "baseline_latency_ms": _median(r.get("baseline_ms") for r in used),
        "speedup": median_ratio(_ratio(r, ()) for r in clean),
        "speedup_with_vae": median_ratio(_ratio(r, ("decode",)) for r in clean),
        "vae_ms": _median(r.get("cell_decode_ms") for r in used),
        **times,
        "contended": not clean,
    }


def timing_row(record: Record) -> dict[str, Any]:
    """A timing record as a row of `timings`: the breakdown becomes columns."""
    row = {k: v for k, v in record.items() if k not in ("breakdown", "type", "fingerprint")}
    return {**row, **(record.get("breakdown") or {})}


def median_ratio(values: Iterable[float | None]) -> float | None:
    """exp of the median log of the positive values; None if there are none."""
    logs = [math.log(v) for v in values if v is not None and v > 0]
    return math.exp(median(logs)) if logs else None


def log_ratio(record: Record) -> float:
    """log(baseline ÷ cell) of one pair, NaN where it has none."""
    ratio = _ratio(record, ())
    return math.log(ratio) if ratio else math.nan


def far_off(cell: Sequence[float], pairs: Sequence[float]) -> list[bool]:
    """The pairs that lie far off the median of their cell's log ratios; none while the cell has fewer than `FEWEST`.

    cell: log ratios of all pairs of the cell so far, `pairs` among them. NaN is no measurement and not far off.
    """
    known = [v for v in cell if math.isfinite(v)]
    if len(known) < FEWEST:
        return [False] * len(pairs)
    middle = median(known)
    reach = max(NEAR, FAR * 1.4826 * median(abs(v - middle) for v in known))
    return [abs(v - middle) > reach for v in pairs]


def measure_again(cell: Sequence[float], unit: Sequence[float], repeats: int) -> bool:
    """Whether one more pair of a unit is to be measured, after all of its `repeats`.

    For each pair that is far off its cell's median one is measured in addition, until as many are near as were asked for and
    more are near than far; no more than `repeats` of them, or 2. cell, unit: log ratios so far, the unit's among the cell's.
    """
    if len(unit) - repeats >= max(repeats, 2):
        return False
    far = sum(far_off(cell, unit))
    return far > 0 and (len(unit) - far < repeats or len(unit) - far <= far)


def spread(records: Iterable[Record]) -> float:
    """Standard deviation of one pair's baseline ÷ cell, as a share of it: how much the pairs of a unit vary.

    Told by the median of |difference| of the log ratios of any two pairs of one unit (of normal values: 0.954 standard
    deviations), so units may differ, a rare hiccup has no say, and two repeats are not flattered more than ten. NaN where
    no unit has two pairs. Contended records are left out.
    """
    units: dict[tuple[Any, Any], list[float]] = defaultdict(list)
    for record in records:
        if record.get("contended") is not True and math.isfinite(ratio := log_ratio(record)):
            units[record["label"], record["seed"]].append(ratio)
    apart = [abs(a - b) for unit in units.values() for a, b in combinations(unit, 2)]
    return median(apart) / (math.sqrt(2) * NormalDist().inv_cdf(0.75)) if apart else math.nan


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


def read_profile(profile: str) -> dict[str, Any]:
    """A checked cost profile (docs/cost-model.md): a shipped name or the path of a JSON file. `UserError` for a bad one."""
    from sdvar_exp.decoding.gamma.cost_model import digest_of, locate, read

    return read(profile, digest_of(locate(profile).read_bytes()))
