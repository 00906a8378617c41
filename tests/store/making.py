"""A small made-up study: plans without models, records without decoding."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from sdvar_exp.cell import Cell
from sdvar_exp.plan import Plan, PlannedCell, Settings, Timing
from sdvar_exp.registry import choose
from sdvar_exp.store import Study

FINGERPRINT = {
    "code": "c0de",
    "checkpoints": {"embedded": {"vae": "a1", "draft": "b2", "target": "c3"}},
    "packages": {"torch": "2.13.0", "numpy": "2.4.0"},
    "device_kind": "cpu",
    "dtype": "float32",
    "threads": 2,
}


def make_cells() -> tuple[PlannedCell, ...]:
    """Baseline, a hand-off, a loop: with and without mask, rule and controller."""
    schedule = choose("cfg_schedule", "linear")
    mask = choose("mask", "block_causal")
    rule = choose("acceptance", "match_rate", tau=0.7)
    gamma = choose("gamma", "fixed", value=3)
    sequential = Cell(choose("strategy", "sequential"), schedule)
    hand_off = Cell(choose("strategy", "test3", entry_num=4), schedule, mask=mask)
    loop = Cell(choose("strategy", "parallel_v1"), schedule, mask=mask, acceptance=rule, gamma=gamma)
    return (
        PlannedCell(sequential, "sequential", ("strategy=sequential",)),
        PlannedCell(hand_off, "test3 entry_num=4", ("strategy=test3",)),
        PlannedCell(loop, "parallel_v1 γ=3", ("strategy=parallel_v1", "gamma.value=3")),
    )


def make_plan(root: Path, study: str = "made_up", labels: Any = (3, 8), seeds: Any = (0, 1, 2), timing: int = 0) -> Plan:
    """Three cells, two labels, three seeds."""
    settings = Settings(timing=Timing(units=timing, repeats=2))
    return Plan(study, root, make_cells(), tuple(labels), tuple(seeds), settings)


def opened(plan: Plan, **changes: Any) -> Study:
    """The plan's study, open."""
    return Study(plan.folder).open(plan, {**FINGERPRINT, **changes})


def unit_body(cell: str, label: int, seed: int, stages: int = 3, **sample: Any) -> dict[str, Any]:
    """A unit's record with numbers that depend on the unit alone."""
    rng = random.Random(f"{cell} {label} {seed}")
    values = {"pixel_mae": rng.random(), "correlation": rng.random(), "psnr_db": None, "target_calls": rng.randint(2, 10)}
    more = {"identical": False, "near_tie": None, "first_divergent_stage": None, "gamma_trace": "3,3,2", "noise_ms": 1.5}
    rows = [{"stage": k, "source": "verified", "passed": k < 2, "acceptance": rng.random()} for k in range(stages)]
    unit = {"type": "unit", "cell": cell, "label": label, "seed": seed}
    return {**unit, "sample": {**values, **more, **sample}, "stages": rows}


def timing_body(cell: str, label: int, seed: int, repeat: int, baseline: float, ms: float, **more: Any) -> dict[str, Any]:
    """A timing record, in milliseconds."""
    unit = {"type": "timing", "cell": cell, "label": label, "seed": seed, "repeat": repeat, "order": "AB"}
    times = {"baseline_ms": baseline, "cell_ms": ms, "baseline_decode_ms": 10.0, "cell_decode_ms": 11.0}
    breakdown = {"draft_ms": 1.0, "verify_ms": 2.0, "accept_ms": 0.5, "fhat_ms": 0.25}
    return {**unit, **times, "breakdown": breakdown, "contended": False, **more}


def all_units(plan: Plan) -> list[dict[str, Any]]:
    """Records of every unit of a plan."""
    cells = [p.cell.id for p in plan.cells]
    return [unit_body(c, label, seed) for c in cells for label in plan.labels for seed in plan.seeds]
