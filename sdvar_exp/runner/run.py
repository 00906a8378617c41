"""`run_study`: everything that one command asks for, or what is left of it."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable

from rich.console import Console

from sdvar_exp.models.pair import load_pair
from sdvar_exp.plan import Plan
from sdvar_exp.runner.finish import finish, shown
from sdvar_exp.runner.interrupt import Interrupt, interruptible
from sdvar_exp.runner.noise import record_noise
from sdvar_exp.runner.prepare import Load, Prepared, prepare
from sdvar_exp.runner.progress import say
from sdvar_exp.runner.timing import run_timing, timed_repeats
from sdvar_exp.runner.units import run_units, start_job
from sdvar_exp.runner.work import Group, groups, plan_units, timings
from sdvar_exp.store import Study, redact, session_record
from sdvar_exp.tracking import Follower, Outcome, resolve, start_follower
from sdvar_exp.tracking.options import said_on_command_line

FINE, FAILED, INTERRUPTED = 0, 1, 130
FINISH_S, BROKEN_OFF_S = 60.0, 3.0
"""How long W&B's child may take at the end of a run, and of one that broke off."""


def run_study(plan: Plan, console: Console, load: Load = load_pair) -> int:
    """Run a plan, or what is left of it.

    Returns 0; 1 if units failed (they are recorded, and tried again by the same command); 130 if interrupted.
    Raises `UserError` before anything is written if the plan cannot run; `StorageError` if the disk takes no more.
    """
    with interruptible() as interrupt:
        try:
            prepared = prepare(plan, load)
            with Study(plan.folder).open(prepared.plan, prepared.fingerprint, plan.settings.allow_mixed) as study:
                return _run(study, prepared, console, interrupt)
        except KeyboardInterrupt:
            say(console, f"stopped; this goes on where it stopped: {command(plan)}")
            return INTERRUPTED


def _run(study: Study, prepared: Prepared, console: Console, interrupt: Interrupt) -> int:
    plan = prepared.plan
    done = study.done()
    pending = groups(plan, done)
    for line in heading(study, prepared, pending):
        say(console, line)
    if pending or timings(plan, done, timed_repeats(study)):
        study.append(session(prepared))
    s = plan.settings
    files = {"mode": s.tracking, "project": s.project, "entity": s.entity, "base_url": s.base_url}
    options = resolve(said_on_command_line(plan.argv), files)
    follower = start_follower(study.folder, options)
    try:
        job = start_job(study, prepared, console, interrupt)
        failed = run_units(job, pending)
        record_noise(job)
        failed += run_timing(job)
        outcome = finish_aside(follower)
        sound = finish(study, plan, console)
        if (sent := outcome()).message:
            say(console, sent.message, "" if sent.ok else "yellow")
    except BaseException:
        follower.finish(BROKEN_OFF_S)
        raise
    if failed:
        say(console, f"{failed} failed; try them again: {command(plan)}", "bold red")
    return FINE if sound and not failed else FAILED


def finish_aside(follower: Follower) -> Callable[[], Outcome]:
    """Let W&B's child finish while tables and figures are made; call the result to wait for it."""
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(follower.finish(FINISH_S)), daemon=True)
    thread.start()

    def wait() -> Outcome:
        thread.join()
        return outcomes[0] if outcomes else Outcome(False, "W&B: its child could not be waited for")

    return wait


def heading(study: Study, prepared: Prepared, pending: list[Group]) -> list[str]:
    """What is about to happen, in two or three lines."""
    plan = prepared.plan
    total = len(plan.cells) * len(plan_units(plan))
    left = sum(len(task.units) for group in pending for task in group.tasks)
    there = f", {total - left} done already" if left < total else ""
    lines = [
        f"{plan.study}: {_count(len(plan.cells), 'cell')} × {_count(len(plan.labels), 'label')} × "
        f"{_count(len(plan.seeds), 'seed')} = {_count(total, 'image')}{there}",
        f"models {', '.join(dict.fromkeys(pair.name for pair in prepared.pairs.values()))}; {prepared.device}, "
        f"{plan.settings.dtype}, {_count(prepared.threads, 'thread')}; results in {shown(study.folder)}",
    ]
    if prepared.added:
        lines.append(f"added to compare with: {', '.join(prepared.added)}")
    return lines


def session(prepared: Prepared) -> dict[str, object]:
    """Provenance of this invocation."""
    plan = prepared.plan
    timing = {"units": plan.settings.timing.units, "repeats": plan.settings.timing.repeats, "warm_up": 1}
    return session_record(
        plan.argv, study=plan.study, device=str(prepared.device), dtype=plan.settings.dtype, threads=prepared.threads,
        checkpoints=prepared.fingerprint["checkpoints"], timing=timing, cells=[p.cell.id for p in plan.cells],
        labels=list(plan.labels), seeds=list(plan.seeds),
    )


def command(plan: Plan) -> str:
    """The command line that continues, for a POSIX shell."""
    return shlex.join(["sdvar-exp", "run", *redact(plan.argv)])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
