"""Everything in this process. A unit that raises, runs out of device memory or gives NaN is recorded and the run goes on.

A unit that takes the process with it (segmentation fault, killed for memory, a hang outside Python) ends the run; the same
command continues, and meets the same unit again: `engine=pool engine.workers=1` gets past it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdvar_exp.plan import Settings
from sdvar_exp.runner.presence import Presence
from sdvar_exp.runner.progress import phase
from sdvar_exp.runner.sweep import Sweep, Tasks
from sdvar_exp.runner.work import Group


def make(settings: Settings) -> InProcess:
    """See `Engine`."""
    return InProcess()


class InProcess:
    """See `Engine`."""

    def run_units(self, sweep: Sweep, pending: Sequence[Group]) -> None:
        """See `Engine`."""
        tasks = Tasks(sweep.study, sweep.backend, sweep.attempts, sweep.options, sweep.options.unit_timeout_s)
        total = sum(len(task.units) for group in pending for task in group.tasks)
        with phase(sweep.console, "decode", total) as step, Presence(sweep.backend.place):
            for group in pending:
                shared = tasks.share(group)
                for task in group.tasks:
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
