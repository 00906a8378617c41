"""The units phase as every engine runs it: one task after another, failures recorded, rows written last. No torch."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from sdvar_exp.decoding.guarantees import lossless
from sdvar_exp.plan import EngineOptions
from sdvar_exp.runner.running.failures import UnitTimeout, out_of_memory, poisoned, record_error, transient
from sdvar_exp.runner.running.interrupt import Interrupt
from sdvar_exp.runner.running.progress import say
from sdvar_exp.runner.running.protocol import Backend, Body, Factory
from sdvar_exp.runner.running.work import Group, Task
from sdvar_exp.store.files import StorageError
from sdvar_exp.store.state import UnitKey
from sdvar_exp.store.study import Study
from sdvar_exp.words import size

log = logging.getLogger(__name__)

SHOWN_FAILURES = 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 60.0
"""Before a unit is tried again, four times as long each time: a network folder or a device may need a while."""

QUOTA_S = 10.0
"""Between looks at the size of a study's folder."""


def held_bytes(folder: Path) -> int:
    """Size of a folder's files; one with several names counts once, one that is gone meanwhile not at all."""
    sizes: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found = os.stat(os.path.join(place, name), follow_symlinks=False)
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


@dataclass
class Sweep:
    """Input of an engine: an open study and what decodes for it.

    failed: units that failed for good in this run. stopped: why no more units are begun, or empty. joined: another process
    has the study open, and follows it for W&B. begun: the ledger knows of this process. looked: when the
    size of the study's folder was last looked at.
    """

    study: Study
    backend: Backend
    factory: Factory
    console: Console
    interrupt: Interrupt
    options: EngineOptions
    attempts: Counter[UnitKey] = field(default_factory=Counter)
    failed: int = 0
    stopped: str = ""
    joined: bool = False
    begun: bool = False
    looked: float = -math.inf

    def note_failures(self, lines: list[str], units: int) -> None:
        """Show failures, count the final ones, and stop the run where the options say so."""
        for line in lines[: max(0, SHOWN_FAILURES - self.failed)]:
            say(self.console, line, "red")
        self.failed += units
        if units and self.options.fail_fast:
            self.stopped = "stopped at the first failure (engine.fail_fast=true)"
        elif units and self.options.max_failures > 0 and self.failed >= self.most_failures:
            self.stopped = f"stopped after {self.failed} failures (engine.max_failures={self.options.max_failures:g})"
        self.check_quota()

    def check_quota(self) -> None:
        """Stop the run where its study holds more than `quota_gb`; looked at every few seconds, after a task."""
        quota, now = self.backend.plan.settings.quota_gb, time.monotonic()
        if not quota or self.stopped or now - self.looked < QUOTA_S:
            return
        self.looked = now
        if (held := held_bytes(self.study.folder)) > quota * 1e9:
            self.stopped = f"stopped: {self.study.folder} holds {size(held)}, more than quota_gb={quota:g} allows"

    @property
    def most_failures(self) -> float:
        """So many failed units end a run: `max_failures`, which below 1 is a share of the plan's units."""
        asked = self.options.max_failures
        return asked if asked >= 1 else asked * self.backend.plan.rows


@dataclass(frozen=True)
class Outcome:
    """A task that is over. failed: units without a row. lines: for people. unusable: the process should end."""

    failed: int = 0
    lines: tuple[str, ...] = ()
    unusable: bool = False


class Tasks:
    """Runs tasks in this process. timeout_s: of one unit, 0 for none; enforced where Python still runs."""

    def __init__(
        self, study: Study, backend: Backend, attempts: Counter[UnitKey], options: EngineOptions, timeout_s: float = 0.0
    ) -> None:
        self.study, self.backend, self.attempts = study, backend, attempts
        self.options, self.timeout_s = options, timeout_s
        self._done = study.done()
        self._shared = backend.plan.shared

    def share(self, group: Group) -> Any | None:
        """The part that the tasks of a group share; None where making it fails: then each task fails alone, with its reason."""
        try:
            return self.backend.share(group)
        except StorageError:
            raise
        except Exception:
            log.debug("nothing to share for %s", group.units, exc_info=True)
            return None

    def run(self, task: Task, shared: Any | None) -> Outcome:
        """Decode and commit one task, again where its failure is transient. What was committed before stays."""
        if self._shared:
            self._done = self.study.done()
        left = [i for i, key in enumerate(task.unit_keys) if key not in self._done]
        if not left:
            return Outcome()  # another process was quicker
        lines: list[str] = []
        attempt = 0
        while True:
            try:
                with time_limit(self.timeout_s * len(task.units)):
                    made = self._evaluate(task, shared)
            except StorageError:
                raise
            except Exception as error:
                log.debug("%s failed", task.planned.name, exc_info=True)
                lines += record_error(self.study, self.attempts, task, [task.units[i] for i in left], error)
                if poisoned(error):
                    return Outcome(len(left), tuple(lines), unusable=True)
                if transient(error) and attempt < self.options.retries:
                    time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 4**attempt))
                    attempt += 1
                    continue
                return Outcome(len(left), tuple(lines))
            self.study.append(*(made[i] for i in left))
            return Outcome(0, tuple(lines))

    def _evaluate(self, task: Task, shared: Any | None) -> list[Body]:
        """Records of a task. A batch too large for memory is cut in two where that cannot change its tokens."""
        try:
            return self.backend.evaluate(task, shared)
        except Exception as error:
            if not (out_of_memory(error) and len(task.units) > 1 and lossless(task.cell) != "no"):
                raise
            log.warning("%s: out of memory with %d images at once; trying fewer", task.planned.name, len(task.units))
        self.backend.free()
        half = len(task.units) // 2
        parts = (Task(task.planned, task.units[:half]), Task(task.planned, task.units[half:]))
        return [body for part in parts for body in self._evaluate(part, None)]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `UnitTimeout` inside after so many seconds; no limit for 0, outside the main thread, or beside another alarm."""
    free = signal.getsignal(signal.SIGALRM) is not None and not signal.getitimer(signal.ITIMER_REAL)[0]
    if seconds <= 0 or threading.current_thread() is not threading.main_thread() or not free:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise UnitTimeout(f"took longer than engine.unit_timeout_s allows ({seconds:g} s)")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
