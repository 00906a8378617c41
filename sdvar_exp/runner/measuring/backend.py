"""The backend of real runs: pairs of models, loaded once in a process."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console

from sdvar_exp.decoding.api import NoiseBook, make_noise, now_ms
from sdvar_exp.models.pair import load_pair
from sdvar_exp.plan import Plan
from sdvar_exp.runner.measuring.prepare import Load, prepare
from sdvar_exp.runner.measuring.results import Body
from sdvar_exp.runner.measuring.timing import device_name, run_timing
from sdvar_exp.runner.measuring.units import Job, evaluate, start_job
from sdvar_exp.runner.running.interrupt import Interrupt
from sdvar_exp.runner.running.work import Group, Task, timings
from sdvar_exp.store import Study
from sdvar_exp.store.state import UnitKey


@dataclass(frozen=True)
class Models:
    """Makes a `ModelBackend` of a plan; `load` is found by name where it is pickled."""

    load: Load = load_pair

    def __call__(self, plan: Plan) -> ModelBackend:
        return ModelBackend(plan, self.load)


class ModelBackend:
    """See `Backend`."""

    def __init__(self, plan: Plan, load: Load = load_pair) -> None:
        self.prepared = prepare(plan, load)
        self.threads = self.prepared.threads
        self.plan = replace(self.prepared.plan, settings=replace(self.prepared.plan.settings, threads=self.threads))
        self.added, self.fingerprint = self.prepared.added, self.prepared.fingerprint
        self.models = tuple(dict.fromkeys(pair.name for pair in self.prepared.pairs.values()))
        self.device = str(self.prepared.device)
        self.place = device_name(self.prepared.device)
        self._job: Job | None = None

    @property
    def job(self) -> Job:
        """State that the phases share, from `begin` on."""
        assert self._job is not None, "begin comes first"
        return self._job

    def begin(self, study: Study, attempts: Counter[UnitKey]) -> None:
        """See `Backend`."""
        self._job = start_job(study, replace(self.prepared, plan=self.plan), attempts)

    def share(self, group: Group) -> tuple[NoiseBook, float]:
        """Noise of a group, and what it took in milliseconds."""
        start = now_ms(self.prepared.device)
        noise = make_noise(self.prepared.pairs[group.model], group.units, [task.cell for task in group.tasks])
        return noise, now_ms(self.prepared.device) - start

    def evaluate(self, task: Task, shared: Any | None) -> list[Body]:
        """See `Backend`."""
        noise, noise_ms = shared if shared is not None else self.share(Group(task.cell.model, task.units, (task,)))
        return evaluate(self.job, task, noise, noise_ms)

    def free(self) -> None:
        """See `Backend`."""
        if self.prepared.device.type == "cuda":
            torch.cuda.empty_cache()

    def record_noise(self) -> None:
        """See `Backend`."""
        self.job.baselines.record_noise()

    def pending_timings(self) -> bool:
        """See `Backend`."""
        study = self.job.study
        return bool(timings(self.plan, study.done(), study.timed()))

    def lacks_timings(self) -> bool:
        """See `Backend`."""
        study = self.job.study
        found = timings(self.plan, study.done() - study.timed_beside(), study.timed())
        return bool(found)

    def run_timing(self, console: Console, interrupt: Interrupt) -> int:
        """See `Backend`."""
        return run_timing(self.job, console, interrupt)

    def trace(self, console: Console) -> int:
        """See `Backend`."""
        from sdvar_exp.runner.measuring.trace import trace_plan

        return trace_plan(self.job, console, self.added)
