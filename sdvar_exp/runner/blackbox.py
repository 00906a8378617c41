"""What a process was at when a fault ended it (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT): noted, and recorded by the next.

A process that decodes units itself keeps a file in its study's `crash/`: first a line with the units that it is at, then, if
a fault comes, the stack that Python's `faulthandler` leaves. The next command of the study records those units as failures.
A process that was killed otherwise leaves no stack: its units are simply not done.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from sdvar_exp.cell import Unit
from sdvar_exp.runner.failures import failure_body
from sdvar_exp.runner.work import Group, Task, UnitKey
from sdvar_exp.store import Study
from sdvar_exp.store.lock import flock

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
        if _held(path):
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
    groups, failed = list(pending), study.failures()
    if not any(failed[key] for group in groups for task in group.tasks for key in task.unit_keys):
        return groups, 0
    last: dict[UnitKey, str] = {}
    for body in study.records():
        if body.get("type") == "failure":
            last[body["cell"], body["label"], body["seed"]] = body["error"]
    out, units = [], 0
    for group in groups:
        kept = []
        for task in group.tasks:
            deadly = sum(KILLED in last.get(key, "") for key in task.unit_keys)
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


def _held(path: Path) -> bool:
    """Whether the process that writes this file is alive."""
    with suppress(OSError), path.open("rb+") as file:
        return not flock(file.fileno())
    return False
