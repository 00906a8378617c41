"""The noise floor of the reference: its own images, compared between seeds of one label."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.metrics.quantities.fidelity import noise_floor
from sdvar_exp.runner.rows import Body
from sdvar_exp.runner.units import Job

SEEDS = 16
"""Seeds per label that are compared, each with each: 120 pairs are plenty, and their number grows with the square."""

Pair = tuple[str, int, int, int]


def record_noise(job: Job) -> None:
    """Append the pairs that the ledger lacks, of the plan's labels and its first `SEEDS` seeds."""
    plan, done = job.prepared.plan, job.study.done()
    known = job.study.noise_pairs()
    references = {planned.cell.compared_with(plan.reference).id for planned in plan.cells}
    for planned in plan.cells:
        if planned.id not in references:
            continue
        for label in plan.labels:
            units = [Unit(label, s) for s in plan.seeds[:SEEDS] if (planned.cell.id, label, s) in done]
            job.study.append(*(b for b in _pairs(job, planned.cell, units, known)))


def _pairs(job: Job, cell: Cell, units: list[Unit], known: AbstractSet[Pair]) -> list[Body]:
    """Records of the pairs of `units` that are not known; images are read only if there is one."""
    seeds = sorted(u.seed for u in units)
    wanted = {(cell.id, units[0].label, a, b) for i, a in enumerate(seeds) for b in seeds[i + 1 :]} - known if units else set()
    if not wanted:
        return []
    images = {(u.label, u.seed): job.baselines.get(cell, u)[0].image for u in units}
    bodies = [{"type": "noise", "cell": cell.id, **row} for row in noise_floor(images)]
    return [body for body in bodies if _key(body) in wanted]


def _key(body: Body) -> Pair:
    return body["cell"], body["label"], body["seed"], body["other_seed"]
