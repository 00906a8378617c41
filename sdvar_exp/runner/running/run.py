"""`run_study`: everything that one command asks for, or what is left of it."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console

from sdvar_exp.guest import own_torch
from sdvar_exp.plan import Plan
from sdvar_exp.runner.running.failures import recover
from sdvar_exp.runner.running.interrupt import interruptible
from sdvar_exp.runner.running.progress import say, shown
from sdvar_exp.runner.running.protocol import Backend, Detached, Engine, Factory, make_engine, wait_for_workers
from sdvar_exp.runner.running.sweep import SHOWN_FAILURES, Sweep
from sdvar_exp.runner.running.until import first, looks
from sdvar_exp.runner.running.work import Group, groups
from sdvar_exp.store.lock import InUse
from sdvar_exp.store.manifest import settle_reference
from sdvar_exp.store.provenance import keep_diff, redact, session_record
from sdvar_exp.store.study import Study
from sdvar_exp.tracking import Follower, Options, Outcome, resolve, start_follower
from sdvar_exp.tracking.options import said_on_command_line
from sdvar_exp.words import count

Launch = Callable[[dict[str, Any]], None]
FINE, FAILED, INTERRUPTED, TERMINATED = 0, 1, 130, 143
FINISH_S, BROKEN_OFF_S = 60.0, 3.0
"""Seconds that W&B's child may take at the end of a run, and of one that broke off."""


def run_study(
    plan: Plan, console: Console, load: Any = None, backend: Factory | None = None, launch: Launch | None = None
) -> int:
    """Run a plan, or what is left of it.

    load: stands in for `load_pair`. backend: stands in for models altogether, see `Backend`. launch: is told what is about to
    run, once the study is open.
    Returns 0; 1 if units failed (they are recorded, and tried again by the same command); 130 if interrupted, 143 by SIGTERM.
    Raises `UserError` before anything is written if the plan cannot run; `StorageError` if the disk takes no more.
    """
    with interruptible() as interrupt, ExitStack() as stack:
        try:
            plan = whole = settle_reference(plan)
            plan = first(plan)
            engine = make_engine(plan.settings)
            factory = backend or stack.enter_context(models_of(load))
            made = factory(plan)
            study, joined = open_or_join(made)
            with study:
                if not plan.shared:
                    wait_for_workers(study.folder)
                if not joined:
                    for line in recover(study):
                        say(console, line, "red")
                options = plan.settings.engine_options
                sweep = Sweep(study, made, factory, console, interrupt, options, study.failures(), joined=joined)
                made.begin(study, sweep.attempts)
                return _run(sweep, engine, whole, launch)
        except KeyboardInterrupt:
            say(console, f"stopped; this goes on where it stopped: {command(plan)}")
            return TERMINATED if interrupt.number == signal.SIGTERM else INTERRUPTED


def open_or_join(made: Backend) -> tuple[Study, bool]:
    """The plan's study, open; joined where the plan is shared and another process has it open."""
    plan = made.plan
    study = Study(plan.folder)
    try:
        return study.open(plan, made.fingerprint, plan.settings.allow_mixed), False
    except InUse:
        if not plan.shared:
            raise
        return study.join(plan, made.fingerprint), True


@contextmanager
def models_of(load: Any = None) -> Iterator[Factory]:
    """The factory of real models, with PyTorch to ourselves; imports torch."""
    from sdvar_exp.runner.measuring.backend import Models

    with own_torch():
        yield Models() if load is None else Models(load)


def _run(sweep: Sweep, engine: Engine, whole: Plan, launch: Launch | None = None) -> int:
    study, backend, console = sweep.study, sweep.backend, sweep.console
    plan = backend.plan
    pending = groups(plan, study.done())
    for line in heading(study, backend, pending):
        say(console, line)
    if pending or backend.pending_timings():
        begin(sweep)
    if launch:
        launch(launched(study, backend, pending))
    s = plan.settings
    files = {"mode": s.tracking, "tracker": s.tracker, "project": s.project, "entity": s.entity, "base_url": s.base_url}
    options = Options("none") if sweep.joined else resolve(said_on_command_line(plan.argv, files), files)
    follower = start_follower(study.folder, options, plugins=s.plugins)
    try:
        for timed in looks(sweep, whole):
            if pending := groups(backend.plan, study.done()):
                begin(sweep)
                engine.run_units(sweep, pending)
            if timed:
                time_images(sweep, engine)
        plan = backend.plan
        backend.record_noise()
        time_images(sweep, engine)
        if s.debug == "trace":
            sweep.failed += backend.trace(console)
        outcome = finish_aside(follower)
        from sdvar_exp.runner.running.finish import finish

        sound = finish(study, plan, console)
        if (sent := outcome()).message:
            say(console, sent.message, "" if sent.ok else "yellow")
    except Detached as detached:
        follower.finish(BROKEN_OFF_S)
        for line in detached.lines:
            say(console, line)
        return FINE
    except BaseException:
        follower.finish(BROKEN_OFF_S)
        raise
    if sweep.failed > SHOWN_FAILURES:
        logs = shlex.join(["sdvar-exp", "logs", "--study", shown(study.folder)])
        say(console, f"… and {sweep.failed - SHOWN_FAILURES} more failed: {logs}", "red")
    if sweep.stopped:
        say(console, f"{sweep.stopped}; this goes on: {command(plan)}", "bold red")
    elif sweep.failed:
        say(console, f"{sweep.failed} failed; try them again: {command(plan)}", "bold red")
    return FINE if sound and not sweep.failed and not sweep.stopped else FAILED


def begin(sweep: Sweep) -> None:
    """Note in the ledger, once, that this process is about to add to it."""
    if not sweep.begun:
        sweep.begun = True
        sweep.study.append(session(sweep.backend))
        keep_diff(sweep.study.folder)


def time_images(sweep: Sweep, engine: Engine) -> None:
    """Time what is missing, unless the run was stopped."""
    if not sweep.stopped and sweep.backend.pending_timings():
        begin(sweep)
        sweep.failed += engine.run_timing(sweep)


def finish_aside(follower: Follower) -> Callable[[], Outcome]:
    """Let W&B's child finish while tables and figures are made; call the result to wait for it."""
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(follower.finish(FINISH_S)), daemon=True)
    thread.start()

    def wait() -> Outcome:
        thread.join()
        return outcomes[0] if outcomes else Outcome(False, "W&B: its child could not be waited for")

    return wait


def heading(study: Study, backend: Backend, pending: list[Group]) -> list[str]:
    """Two or three lines about what is to be run."""
    plan = backend.plan
    total = plan.rows
    left = sum(len(task.units) for group in pending for task in group.tasks)
    there = f", {total - left} done already" if left < total else ""
    engine = "" if plan.settings.engine == "inprocess" else f", engine {plan.settings.engine}"
    lines = [
        f"{plan.study}: {count(len(plan.cells), 'cell')} × {count(len(plan.labels), 'label')} × "
        f"{count(len(plan.seeds), 'seed')} = {count(total, 'image')}{there}",
        f"models {', '.join(backend.models)}; {backend.device}, "
        f"{plan.settings.dtype}, {count(backend.threads, 'thread')}{engine}; results in {shown(study.folder)}",
    ]
    if plan.until:
        lines.append(f"seeds until {plan.until}")
    if backend.added:
        lines.append(f"added to compare with: {', '.join(backend.added)}")
    return lines


def launched(study: Study, backend: Backend, pending: list[Group]) -> dict[str, Any]:
    """The launch record: what a run binds before its first decode, for programs."""
    plan = backend.plan
    return {
        "study": plan.study,
        "folder": str(study.folder.resolve()),
        "pid": os.getpid(),
        "command": command(plan),
        "cells": [{"cell": p.cell.id, "name": p.name} for p in plan.cells],
        "units": plan.rows,
        **({"until": {**dict(plan.until.widths), "most": plan.until.most}} if plan.until else {}),
        "pending": sum(len(task.units) for group in pending for task in group.tasks),
        "models": list(backend.models),
        "device": backend.device,
        "dtype": plan.settings.dtype,
        "engine": plan.settings.engine,
    }


def session(backend: Backend) -> dict[str, object]:
    """Provenance of this invocation."""
    plan = backend.plan
    timing = {"units": plan.settings.timing.units, "repeats": plan.settings.timing.repeats, "warm_up": 1}
    return session_record(
        plan.argv,
        study=plan.study,
        device=backend.device,
        dtype=plan.settings.dtype,
        threads=backend.threads,
        checkpoints=backend.fingerprint["checkpoints"],
        timing=timing,
        cells=[p.cell.id for p in plan.cells],
        labels=list(plan.labels),
        seeds=list(plan.seeds),
        engine=plan.settings.engine,
    )


def command(plan: Plan) -> str:
    """The command line that continues, for a POSIX shell."""
    return shlex.join(["sdvar-exp", "run", *redact(plan.argv)])
