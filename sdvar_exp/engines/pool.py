"""A pool of workers on this machine: one per GPU, or n on a CPU. A lost worker costs its unit, and is replaced.

A group (all cells of one unit, which share noise and baseline) goes to whichever worker is idle. A worker that dies or
takes too long leaves a failure with what its log says; its task is tried again, alone, `retries` times, and the rest of its
group goes to another worker.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from sdvar_exp.engines.worker import Assignment, pack
from sdvar_exp.engines.workers import WorkerProcess, ending, environment_of, log_folder
from sdvar_exp.errors import UserError
from sdvar_exp.guest import cores
from sdvar_exp.plan import Settings
from sdvar_exp.runner.running.failures import record_failure
from sdvar_exp.runner.running.progress import Step, phase
from sdvar_exp.runner.running.sweep import Outcome, Sweep
from sdvar_exp.runner.running.work import Group
from sdvar_exp.store import StorageError
from sdvar_exp.store.state import UnitKey

POLL_S = 0.2
GRACE_S = 2.0
"""Beyond its limit a unit gets so long to be ended from inside, with a traceback, before its worker is killed."""
STARTS = 3
"""So many workers in a row that end before they are ready are enough."""


def make(settings: Settings) -> Pool:
    """See `Engine`."""
    return Pool()


class Pool:
    """See `Engine`. awaited: whether the study's next coordinator is to wait for workers whose own one was killed."""

    def __init__(self, awaited: bool = True) -> None:
        self.awaited = awaited

    def run_units(self, sweep: Sweep, pending: Sequence[Group]) -> None:
        """See `Engine`."""
        plan = sweep.backend.plan
        gpus = visible_gpus(sweep.backend.device)
        count = sweep.options.workers or default_workers(gpus, sweep.backend.threads)
        settings = replace(plan.settings, device="cuda") if gpus else plan.settings
        at = Assignment(
            replace(plan, settings=settings),
            sweep.factory,
            sweep.study.folder.resolve(),
            sweep.attempts,
            sweep.options,
            self.awaited,
        )
        total = sum(len(task.units) for group in pending for task in group.tasks)
        with phase(sweep.console, "decode", total) as step, log_folder(sweep.study.folder) as logs, sweep.interrupt.shield():
            run = Run(sweep, at, step, gpus, count, deque(pending))
            try:
                run.start_until(count, logs)
                while run.workers:
                    run.turn()
                    run.start_until(count, logs)
            finally:
                for worker in run.workers:
                    worker.kill()
                for worker in run.workers:
                    worker.end()

    def run_timing(self, sweep: Sweep) -> int:
        """See `Engine`: in this process, when the workers are gone."""
        return sweep.backend.run_timing(sweep.console, sweep.interrupt)


@dataclass
class Run:
    """State of one units phase."""

    sweep: Sweep
    assignment: Assignment
    step: Step
    gpus: list[str]
    count: int
    queue: deque[Group]
    workers: list[WorkerProcess] = field(default_factory=list)
    tries: Counter[UnitKey] = field(default_factory=Counter)
    started: int = 0
    in_vain: int = 0

    @property
    def draining(self) -> bool:
        """Whether no more tasks are to be begun."""
        return self.sweep.interrupt.asked or bool(self.sweep.stopped)

    def start_until(self, count: int, logs: Path) -> None:
        """Start workers until there are as many as there is work for."""
        busy = sum(w.group is not None for w in self.workers)
        while not self.draining and len(self.workers) < min(count, busy + len(self.queue)):
            taken = {w.number for w in self.workers}
            number = next(i for i in range(count) if i not in taken)
            log = logs / f"worker-{os.getpid()}-{self.started}.log"
            environment = environment_of(number, self.gpus)
            self.workers.append(WorkerProcess(number, log, pack(self.assignment), environment))
            self.started += 1

    def turn(self) -> None:
        """Wait for messages, hand out work, end what hangs."""
        if self.draining:
            for worker in self.workers:
                worker.stop()
        wait([w.connection for w in self.workers], POLL_S)
        for worker in list(self.workers):
            try:
                for message in worker.messages():
                    self.take(worker, message)
            except EOFError:
                self.lost(worker)
                continue
            self.end_if_overdue(worker)

    def take(self, worker: WorkerProcess, message: tuple[Any, ...]) -> None:
        """Act on one message."""
        kind = message[0]
        if kind == "start":
            worker.current, worker.since = message[1], time.monotonic()
        elif kind == "end":
            self.ended(worker, message[2])
        elif kind in ("ready", "idle"):
            worker.ready, self.in_vain = True, 0
            self.give_back(worker)
            if self.queue and not self.draining:
                worker.give(self.queue.popleft())
            else:
                worker.stop()
        elif kind == "storage":
            raise StorageError(str(message[1]))
        elif kind == "refused":
            raise UserError(str(message[1]))
        elif kind == "broken":
            worker.log.write_text(str(message[1]), encoding="utf-8")

    def ended(self, worker: WorkerProcess, outcome: Outcome) -> None:
        """A task is over, and recorded by its worker."""
        task, group = worker.task, worker.group
        assert task is not None and group is not None and worker.current is not None
        worker.over = worker.current + 1
        worker.current = None
        for key in task.unit_keys:
            self.sweep.attempts[key] += len(outcome.lines) // len(task.units)
        if outcome.unusable and self.again(task.unit_keys):
            self.queue.append(replace(group, tasks=(task,)))
            self.sweep.note_failures([f"{line}; trying again" for line in outcome.lines], 0)
            return
        self.sweep.note_failures(list(outcome.lines), outcome.failed)
        self.step(len(task.units), task.planned.name)

    def give_back(self, worker: WorkerProcess) -> None:
        """Puts back into the queue what a worker was given and did not begin."""
        if worker.rest is not None:
            self.queue.appendleft(worker.rest)
        worker.group = worker.current = None

    def again(self, keys: tuple[UnitKey, ...]) -> bool:
        """Whether a task whose worker was lost is to be tried again; counts."""
        self.tries[keys[0]] += 1
        return self.tries[keys[0]] <= self.sweep.options.retries

    def lost(self, worker: WorkerProcess) -> None:
        """A worker has ended: record what it was at, put the rest back."""
        self.workers.remove(worker)
        how = ending(worker.end())
        if worker.task is not None:
            self.lost_at(worker, how)
        elif not worker.ready and not worker.stopping:
            self.in_vain += 1
            if self.in_vain >= STARTS:
                tail = worker.log_tail().splitlines() or [how]
                raise UserError(f"engine=pool: workers end before they begin: {tail[-1]}")
        self.give_back(worker)

    def lost_at(self, worker: WorkerProcess, how: str) -> None:
        """A worker has ended in the middle of a task."""
        task, group = worker.task, worker.group
        assert task is not None and group is not None
        limit = self.sweep.options.unit_timeout_s * len(task.units)
        error = (
            f"UnitTimeout: took longer than engine.unit_timeout_s allows ({limit:g} s); its worker was killed"
            if worker.timed_out
            else f"WorkerLost: the worker was {how}"
        )
        done = self.sweep.study.done()
        left = [unit for unit, key in zip(task.units, task.unit_keys, strict=True) if key not in done]
        lines: list[str] = []
        if left:
            lines = record_failure(self.sweep.study, self.sweep.attempts, task, left, error, worker.log_tail())
            if self.again(task.unit_keys):
                self.queue.append(replace(group, tasks=(task,)))
                self.sweep.note_failures([f"{line}; trying again" for line in lines], 0)
                return
        self.sweep.note_failures(lines, len(left))
        self.step(len(task.units), task.planned.name)

    def end_if_overdue(self, worker: WorkerProcess) -> None:
        """Kill a worker whose unit takes too long; `lost` then follows."""
        limit = self.sweep.options.unit_timeout_s
        if not limit or worker.task is None or worker.timed_out:
            return
        if time.monotonic() - worker.since > limit * len(worker.task.units) + GRACE_S:
            worker.timed_out = True
            worker.kill(dump=True)


def visible_gpus(device: str) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; one where the device has a number."""
    if not device.startswith("cuda"):
        return []
    import torch

    known = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [n for n in known.split(",") if n] if known else [str(i) for i in range(torch.cuda.device_count())]
    return [names[int(device.partition(":")[2])]] if ":" in device else names


def default_workers(gpus: list[str], threads: int) -> int:
    """One per GPU; on a CPU as many as the cores hold."""
    return len(gpus) or max(1, cores() // max(1, threads))
