"""Records units that failed: those that raised, and those at which a fault ended the process.

A process that decodes units itself keeps a file in its study's `crash/`: first a line with the units that it is at, then, if
a fault comes (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT), the stack that Python's `faulthandler` leaves. The next command of the
study records those units as failures. A process that was killed otherwise leaves no stack: its units are simply not done.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from sdvar_exp.cell import Unit
from sdvar_exp.errors import UserError
from sdvar_exp.runner.running.work import Group, Task
from sdvar_exp.store import Study
from sdvar_exp.store.lock import flock, is_held
from sdvar_exp.store.provenance import without_home
from sdvar_exp.store.state import UnitKey

Body = dict[str, Any]

OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")
PEAK = "peak_memory_bytes"
"""Attribute of an exception: what the decode that ran out of memory had used at most."""
POISONED = ("AcceleratorError",)
"""CUDA errors after which a process can do nothing more with its device (`torch.AcceleratorError`)."""


class NotFiniteError(RuntimeError):
    """A model gave NaN: the unit has no result."""


class UnitTimeout(RuntimeError):
    """A unit took longer than engine.unit_timeout_s."""


class BaselineError(RuntimeError):
    """A cell cannot be compared: its unit's baseline failed. The unit stays pending."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a device or of the machine; torch's error is known by its name."""
    return type(error).__name__ in OUT_OF_MEMORY


def poisoned(error: BaseException) -> bool:
    """Whether this process cannot use its device any more."""
    return type(error).__name__ in POISONED


def transient(error: BaseException) -> bool:
    """Whether the same unit may succeed in another attempt: the machine's fault, never that of a configuration."""
    if isinstance(error, UserError) or out_of_memory(error):
        return False
    return isinstance(error, OSError | UnitTimeout) or poisoned(error)


def describe(error: BaseException) -> str:
    """One line: kind and message; `oom: …` where memory ran out, with the peak in bytes where it is known."""
    if not out_of_memory(error):
        return f"{type(error).__name__}: {error}"
    peak = getattr(error, PEAK, None)
    return f"oom: {type(error).__name__}: {error}" + ("" if peak is None else f" (peak memory {peak} bytes)")


def failure_body(cell_id: str, unit: Unit, error: str, traceback_text: str, attempt: int) -> Body:
    """The record of a unit that failed."""
    return {
        "type": "failure",
        "cell": cell_id,
        "label": unit.label,
        "seed": unit.seed,
        "error": error,
        "traceback": without_home(traceback_text),
        "attempt": attempt,
    }


def record_failure(
    study: Study, attempts: Counter[UnitKey], task: Task, units: Sequence[Unit], error: str, traceback_text: str
) -> list[str]:
    """Write down that units of a task failed; one line each, for people."""
    bodies, lines = [], []
    for unit in units:
        key = (task.cell.id, unit.label, unit.seed)
        attempts[key] += 1
        bodies.append(failure_body(task.cell.id, unit, error, traceback_text, attempts[key]))
        lines.append(f"failed: {task.planned.name}, label {unit.label}, seed {unit.seed}: {error}")
    study.append(*bodies)
    return lines


def record_error(study: Study, attempts: Counter[UnitKey], task: Task, units: Sequence[Unit], error: Exception) -> list[str]:
    """`record_failure` for an exception."""
    text = "".join(traceback.format_exception(error))
    return record_failure(study, attempts, task, units, describe(error), text)


FATAL = b"Fatal Python error: "
KILLED = "killed by "
SIGNALS = {
    "Segmentation fault": "SIGSEGV, a segmentation fault",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating point exception": "SIGFPE",
    "Floating-point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}


class BlackBox:
    """`with BlackBox(study.folder) as box: box.at(tasks)` before each step. Where no file can be kept, nothing is noted."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "crash" / f"{socket.gethostname()}-{os.getpid()}.log"
        self._fd: int | None = None
        self._was_enabled = False

    def __enter__(self) -> BlackBox:
        self._was_enabled = faulthandler.is_enabled()
        with suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            flock(self._fd)
            faulthandler.enable(self._fd)
        return self

    def at(self, tasks: Sequence[Task]) -> None:
        """The units of these tasks are what this process is at from now on."""
        if self._fd is None:
            return
        line = json.dumps([key for task in tasks for key in task.unit_keys]).encode() + b"\n"
        with suppress(OSError):
            os.pwrite(self._fd, line, 0)
            os.ftruncate(self._fd, len(line))
            os.lseek(self._fd, len(line), os.SEEK_SET)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._fd is None:
            return
        faulthandler.disable()
        if self._was_enabled and sys.__stderr__ is not None:
            with suppress(OSError, ValueError, RuntimeError):  # standard error may be closed, or no file
                faulthandler.enable(sys.__stderr__)
        with suppress(OSError):
            self.path.unlink()
            self.path.parent.rmdir()  # where no other process has a file in it
        os.close(self._fd)
        self._fd = None


def recover(study: Study) -> list[str]:
    """Record the units at which earlier processes of this study died of a fault; one line each, for people."""
    lines, folder = [], study.folder / "crash"
    for path in sorted(folder.glob("*.log")) if folder.is_dir() else []:
        if is_held(path):
            continue
        head, _, stack = path.read_bytes().partition(b"\n")
        if FATAL in stack:
            text = stack[stack.index(FATAL) :].decode(errors="replace")
            name = text[len(FATAL) :].splitlines()[0].strip()
            error = KILLED + SIGNALS.get(name, name)
            bodies = [
                failure_body(cell, Unit(label, seed), error, text, 1 + study.failures()[cell, label, seed])
                for cell, label, seed in _keys(head)
                if (cell, label, seed) not in study.done()
            ]
            study.append(*bodies)
            lines += [
                f"failed in an earlier run: cell {b['cell']}, label {b['label']}, seed {b['seed']}: {error}; its stack: "
                f"sdvar-exp logs {b['cell']}"
                for b in bodies
            ]
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()
    return lines


def without_deadly(study: Study, pending: Iterable[Group]) -> tuple[list[Group], int]:
    """The groups without the units that ended a process (or a worker) when last tried, and how many units those are."""
    failed = study.state().failed
    out, units = [], 0
    for group in pending:
        kept = []
        for task in group.tasks:
            deadly = sum(KILLED in failed[key]["error"] for key in task.unit_keys if key in failed)
            units += deadly
            if not deadly:
                kept.append(task)
        if kept:
            out.append(Group(group.model, group.units, tuple(kept)))
    return out, units


def _keys(head: bytes) -> list[UnitKey]:
    """The units of a note; none where it is not one."""
    with suppress(ValueError, TypeError, RecursionError):
        return [(str(cell), int(label), int(seed)) for cell, label, seed in json.loads(head)]
    return []
