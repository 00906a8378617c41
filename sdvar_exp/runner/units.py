"""The units phase: decode what is pending, compare it with the baseline, write images first and the row last."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from sdvar_exp.cell import Unit
from sdvar_exp.decoding.api import Decoded, NoiseBook, decode, decode_images, make_noise, now_ms
from sdvar_exp.runner.baselines import BaselineError, Baselines
from sdvar_exp.runner.interrupt import Interrupt
from sdvar_exp.runner.memory import PeakMemory
from sdvar_exp.runner.prepare import Prepared
from sdvar_exp.runner.progress import phase, say
from sdvar_exp.runner.result import Result, f_hat_of, result_of, to_numpy
from sdvar_exp.runner.rows import Body, amplified_difference, failure_body, unit_body
from sdvar_exp.runner.work import Group, Task, UnitKey, plan_units
from sdvar_exp.store import StorageError, Study
from sdvar_exp.store.ledger import LedgerReader

log = logging.getLogger(__name__)

SHOWN_FAILURES = 10


@dataclass(frozen=True)
class Job:
    """What the phases share. done: units with a row when the run began. attempts: failures of each unit so far.
    pictured: units whose images are kept.
    """

    study: Study
    prepared: Prepared
    baselines: Baselines
    console: Console
    interrupt: Interrupt
    done: frozenset[UnitKey]
    attempts: Counter[UnitKey]
    pictured: frozenset[Unit]


def start_job(study: Study, prepared: Prepared, console: Console, interrupt: Interrupt) -> Job:
    """A job of a study that is open."""
    failed = LedgerReader(study.ledger).read(containing=b'"type":"failure"')
    attempts = Counter((b["cell"], b["label"], b["seed"]) for b in failed)
    images, units = prepared.plan.settings.images, plan_units(prepared.plan)
    kept = units if images == "all" else units[: 0 if images == "none" else int(images)]
    done = frozenset(study.done())
    return Job(study, prepared, Baselines(study, prepared), console, interrupt, done, attempts, frozenset(kept))


def run_units(job: Job, pending: Collection[Group]) -> int:
    """Decode every pending task; the number of units that failed. Raises `StorageError`, `KeyboardInterrupt`."""
    total = sum(len(task.units) for group in pending for task in group.tasks)
    failed = 0
    if not total:
        return 0
    with phase(job.console, "decode", total) as step:
        for group in pending:
            pair = job.prepared.pairs[group.model]
            start = now_ms(job.prepared.device)
            noise = make_noise(pair, group.units, [task.cell for task in group.tasks])
            noise_ms = now_ms(job.prepared.device) - start
            for task in group.tasks:
                with job.interrupt.shield():
                    failures = run_task(job, task, noise, noise_ms)
                for line in failures[: max(0, SHOWN_FAILURES - failed)]:
                    say(job.console, line, "red")
                failed += len(failures)
                step(len(task.units), task.planned.name)
    return failed


def run_task(job: Job, task: Task, noise: NoiseBook, noise_ms: float) -> list[str]:
    """Decode and commit one task; one line per unit that failed, for people. What was committed before stays."""
    left = [i for i, key in enumerate(task.unit_keys) if key not in job.done]
    try:
        made = evaluate(job, task, noise, noise_ms)
    except StorageError:
        raise
    except Exception as error:
        log.debug("%s failed", task.planned.name, exc_info=True)
        return record_failure(job, task, [task.units[i] for i in left], error)
    job.study.append(*(made[i] for i in left))
    return []


def record_failure(job: Job, task: Task, units: list[Unit], error: Exception) -> list[str]:
    """Write down that units of a task raised; one line each. Call it while the exception is handled."""
    bodies, lines = [], []
    for unit in units:
        key = (task.cell.id, unit.label, unit.seed)
        job.attempts[key] += 1
        bodies.append(failure_body(task.cell.id, unit, error, job.attempts[key]))
        lines.append(f"failed: {task.planned.name}, label {unit.label}, seed {unit.seed}: {bodies[-1]['error']}")
    job.study.append(*bodies)
    return lines


def evaluate(job: Job, task: Task, noise: NoiseBook, noise_ms: float) -> list[Body]:
    """One record per unit of the task; images are written."""
    cell, pair = task.cell, job.prepared.pairs[task.cell.model]
    own = cell.id == cell.baseline().id
    peak = PeakMemory(job.prepared.device)
    baselines, hit = baselines_of(job, task, noise)
    decoded = None
    if not own:
        peak = PeakMemory(job.prepared.device)
        decoded = decode(pair, cell, task.units, noise=noise)
    memory = None if own and hit else peak.bytes()
    circumstances: dict[str, Any] = {"noise_ms": noise_ms, "cache_hit": hit, "peak_memory_bytes": memory}
    exact = job.prepared.plan.settings.dtype == "float64"
    bodies = []
    for i, (unit, baseline) in enumerate(zip(task.units, baselines, strict=True)):
        result = baseline if decoded is None else result_of(decoded, i, image_of(job, task, decoded, i, baseline))
        write_images(job, task, unit, result, baseline)
        attempt = job.attempts[cell.id, unit.label, unit.seed] + 1
        bodies.append(unit_body(cell.id, unit, result, baseline, pair.pyramid, exact, attempt=attempt, **circumstances))
    return bodies


def baselines_of(job: Job, task: Task, noise: NoiseBook) -> tuple[list[Result], bool]:
    """The baseline of each unit, and whether all came from the cache."""
    cell = task.cell.baseline()
    alone = noise if len(task.units) == 1 else None
    try:
        found = [job.baselines.get(cell, unit, alone) for unit in task.units]
    except StorageError:
        raise
    except Exception as error:
        if task.cell.id == cell.id:
            raise
        raise BaselineError(f"the baseline of this unit failed ({type(error).__name__}: {error})") from error
    return [result for result, _ in found], all(hit for _, hit in found)


def image_of(job: Job, task: Task, decoded: Decoded, i: int, baseline: Result) -> np.ndarray:
    """Image i, (3, H, W). One by one, so that equal f̂ gives equal pixels; a f̂ that the baseline has is not decoded again."""
    if np.array_equal(f_hat_of(decoded, i), baseline.f_hat):
        return baseline.image
    return to_numpy(decode_images(job.prepared.pairs[task.cell.model], decoded.f_hat[i : i + 1])[0])


def write_images(job: Job, task: Task, unit: Unit, result: Result, baseline: Result) -> None:
    """Sample and amplified difference as PNG, where they are asked for; the baseline's picture is its own cell's."""
    if unit not in job.pictured:
        return
    key = (task.cell.id, unit.label, unit.seed)
    job.study.write_image(*key, result.image)
    if result is not baseline:
        job.study.write_image(*key, amplified_difference(result.image, baseline.image), "_diff")
