"""The timing phase: baseline and cell decoded again, in turn, alone on the device, nothing recorded.

Noise is made before the clock starts; the VAE decode has a time of its own. The breakdown comes from the timed decodes
themselves: `Clock` only takes time stamps (CUDA events, no synchronisation), on a CPU a few µs per section of a decode
that takes tens of milliseconds, and the baseline carries one too.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from rich.console import Console

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding.api import Clock, NoiseBook, decode, decode_images, make_noise, now_ms
from sdvar_exp.runner.measuring.results import Body
from sdvar_exp.runner.measuring.units import Job
from sdvar_exp.runner.running.failures import record_error
from sdvar_exp.runner.running.interrupt import Interrupt
from sdvar_exp.runner.running.presence import Presence
from sdvar_exp.runner.running.progress import phase, say
from sdvar_exp.runner.running.work import Task, Timed, timings
from sdvar_exp.store import StorageError
from sdvar_exp.store.timing import measure_again

SECTIONS = ("draft", "verify", "accept", "fhat")


@dataclass(frozen=True)
class Measured:
    """Milliseconds of one decode, of the VAE decode behind it, and of the decode's sections."""

    ms: float
    decode_ms: float
    breakdown: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Watched:
    """A job whose timing phase is under way. again: by cell, pairs that were measured in addition."""

    job: Job
    console: Console
    interrupt: Interrupt
    presence: Presence
    again: Counter[str] = field(default_factory=Counter)


def run_timing(job: Job, console: Console, interrupt: Interrupt) -> int:
    """Time what is asked for and missing; the number of measurements that failed."""
    work = timings(job.prepared.plan, job.study.done(), job.study.timed())
    total = sum(len(timed.repeats) for _, tasks in work for timed in tasks)
    if not total:
        return 0
    warm: set[str] = set()
    failed = 0
    with phase(console, "time", total) as step, _light_collections(), Presence(device_name(job.prepared.device)) as presence:
        at = Watched(job, console, interrupt, presence)
        for units, tasks in work:
            cells = [timed.task.cell for timed in tasks]
            books = {
                model: make_noise(job.prepared.pairs[model], units, [c for c in cells if c.model == model])
                for model in dict.fromkeys(c.model for c in cells)
            }
            gc.collect()
            for timed in tasks:
                failed += _run(at, timed, books[timed.task.cell.model], warm)
                step(len(timed.repeats), timed.task.planned.name)
    if more := at.again.total():
        say(console, f"{more} pairs measured in addition to {total}, as some lay far off their cell's median; all count")
    return failed


def _run(at: Watched, timed: Timed, noise: NoiseBook, warm: set[str]) -> int:
    """All missing repeats of one task; 1 if they could not be measured."""
    task, job = timed.task, at.job
    try:
        if task.cell.id not in warm:
            pair_up(job, task, noise, "AB")
            warm.add(task.cell.id)
        for repeat in timed.repeats:
            with at.interrupt.shield():
                job.study.append(measure_pair(at, timed, noise, repeat))
        at.again[task.cell.id] += _again(at, timed, noise)
    except StorageError:
        raise
    except Exception as error:
        for line in record_error(job.study, job.attempts, task, list(task.units[:1]), error):
            say(at.console, f"timing {line}", "red")
        return 1
    return 0


def _again(at: Watched, timed: Timed, noise: NoiseBook) -> int:
    """Measure pairs in addition where some of the unit lie far off their cell's median; how many. Those beside others count."""
    study, asked = at.job.study, at.job.prepared.plan.settings.timing.repeats
    unit, more = timed.task.unit_keys[0], 0
    while more < max(asked, 2):
        times = study.timed()
        own = times.get(unit, {})
        cell = [ratio for key, ratios in times.items() if key[0] == unit[0] for ratio in ratios.values()]
        if not own or not measure_again(cell, list(own.values()), asked):
            break
        with at.interrupt.shield():
            study.append({**measure_pair(at, timed, noise, max(own) + 1), "again": True})
        more += 1
    return more


def device_name(device: torch.device) -> str:
    """The device as all processes of this machine name it."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else "cpu"


def measure_pair(at: Watched, timed: Timed, noise: NoiseBook, repeat: int) -> Body:
    """Time baseline and cell once, in an order that alternates over units and repeats."""
    letters = "ABC"[: 1 + len(at.job.prepared.plan.compared_with(timed.task.cell))]
    order = letters if (timed.index + repeat) % 2 == 0 else letters[::-1]
    before = at.presence.others()
    took = pair_up(at.job, timed.task, noise, order)
    a, b = took["A"], took["B"]
    own = {"own_ms": took["C"].ms, "own_decode_ms": took["C"].decode_ms} if "C" in took else {}
    contended = before or at.presence.others()
    first = timed.task.units[0]
    return {
        "type": "timing",
        "cell": timed.task.cell.id,
        "label": first.label,
        "seed": first.seed,
        "repeat": repeat,
        "order": order,
        "batch": len(timed.task.units),
        "baseline_ms": a.ms,
        "cell_ms": b.ms,
        "baseline_decode_ms": a.decode_ms,
        "cell_decode_ms": b.decode_ms,
        **own,
        "breakdown": b.breakdown,
        "contended": contended,
    }


def pair_up(job: Job, task: Task, noise: NoiseBook, order: str) -> dict[str, Measured]:
    """Decode with the reference (A), the cell (B) and, where it is asked for, the cell's own baseline (C) in the given order.

    All decode the same units in the same lockstep, whatever the batch: a speed-up is the cell's own.
    """
    against = job.prepared.plan.compared_with(task.cell)
    cells = {"A": against[0], "B": task.cell, "C": against[-1]}
    with _no_collection():
        return {letter: measure(job, cells[letter], task.units, noise) for letter in order}


def measure(job: Job, cell: Cell, units: Sequence[Unit], noise: NoiseBook) -> Measured:
    """Decode once with everything synchronised before and after."""
    pair, device = job.prepared.pairs[cell.model], job.prepared.device
    clock = Clock(device)
    start = now_ms(device)
    decoded = decode(pair, cell, units, noise=noise, clock=clock, record=False)
    middle = now_ms(device)
    decode_images(pair, decoded.f_hat)
    stop = now_ms(device)
    spent = clock.ms()
    return Measured(middle - start, stop - middle, {f"{name}_ms": spent.get(name, 0.0) for name in SECTIONS})


@contextmanager
def _light_collections() -> Iterator[None]:
    """Leave everything that exists by now (models, modules) out of garbage collection: a full one takes 0.1 s else."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection in the middle of a measurement."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
