"""Everything in this process. A unit that raises, runs out of device memory or gives NaN is recorded and the run goes on.

A fault (segmentation fault, abort) ends the process; the same command records the unit with the stack, leaves it out and goes
on. Killed for memory, or in a hang outside Python, a process leaves no trace, and the same command meets the unit again:
`engine=pool engine.workers=1` gets past all of these.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdvar_exp.plan import Settings
from sdvar_exp.runner.running.failures import BlackBox, without_deadly
from sdvar_exp.runner.running.presence import Presence
from sdvar_exp.runner.running.progress import phase
from sdvar_exp.runner.running.sweep import Sweep, Tasks
from sdvar_exp.runner.running.work import Group
from sdvar_exp.words import count


def make(settings: Settings) -> InProcess:
    """See `Engine`."""
    return InProcess()


class InProcess:
    """See `Engine`."""

    def run_units(self, sweep: Sweep, pending: Sequence[Group]) -> None:
        """See `Engine`."""
        tasks = Tasks(sweep.study, sweep.backend, sweep.attempts, sweep.options, sweep.options.unit_timeout_s)
        pending, deadly = without_deadly(sweep.study, pending)
        if deadly:
            some = f"{count(deadly, 'unit')} left out that ended a process before"
            sweep.note_failures([f"{some}: engine=pool engine.workers=1 gets past such a unit"], deadly)
        total = sum(len(task.units) for group in pending for task in group.tasks)
        with phase(sweep.console, "decode", total) as step, Presence(sweep.backend.place), BlackBox(sweep.study.folder) as box:
            for group in pending:
                box.at(group.tasks)
                shared = tasks.share(group)
                for task in group.tasks:
                    box.at([task])
                    with sweep.interrupt.shield():
                        outcome = tasks.run(task, shared)
                    sweep.note_failures(list(outcome.lines), outcome.failed)
                    step(len(task.units), task.planned.name)
                    if outcome.unusable and not sweep.stopped:
                        sweep.stopped = "stopped: the device of this process cannot be used any more"
                    if sweep.stopped:
                        return

    def run_timing(self, sweep: Sweep) -> int:
        """See `Engine`."""
        return sweep.backend.run_timing(sweep.console, sweep.interrupt)
