"""A worker of the pool: a process that calls `main(fd)`, fd being its end of a socket to the coordinator.

It makes its own backend (models are loaded once), joins the study, and decodes the groups that it is given, one after
another, telling when a task begins and ends: so the coordinator knows what was at work when a worker is lost. Rows go to a
ledger file of its own. When the coordinator is gone it ends at once; a row that is not written then never happened.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import select
import signal
import sys
import threading
import traceback
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sdvar_exp import registry
from sdvar_exp.errors import UserError
from sdvar_exp.guest import guarded
from sdvar_exp.plan import EngineOptions, Plan
from sdvar_exp.runner.running.presence import Presence
from sdvar_exp.runner.running.protocol import Factory, at_work
from sdvar_exp.runner.running.sweep import Tasks
from sdvar_exp.runner.running.work import Group
from sdvar_exp.store import StorageError, Study
from sdvar_exp.store.state import UnitKey

UNUSABLE = 75
"""Exit code of a worker whose device can no longer be used; the coordinator starts another."""

DUMP = signal.SIGUSR2
"""Makes a worker write where it hangs to its log."""

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Assignment:
    """All that a worker is told at its start. awaited: whether the study's next coordinator waits for its end."""

    plan: Plan
    factory: Factory
    folder: Path
    attempts: Counter[UnitKey]
    options: EngineOptions
    awaited: bool = True


def pack(assignment: Assignment) -> list[bytes]:
    """Two messages: what to import before the second can be read, and the assignment."""
    paths = [os.path.abspath(p) for p in sys.path]
    return [pickle.dumps({"paths": paths, "plugins": assignment.plan.settings.plugins}), pickle.dumps(assignment)]


def unpack(first: bytes, second: bytes) -> Assignment:
    """The inverse of `pack`, in another process."""
    about = pickle.loads(first)
    sys.path += [path for path in about["paths"] if path not in sys.path]
    registry.discover(about["plugins"])
    assignment = pickle.loads(second)
    assert isinstance(assignment, Assignment)
    return assignment


def main(fd: int) -> int:
    """Serve until the coordinator sends None or is gone."""
    connection = Connection(fd)
    die_with_parent(fd)
    faulthandler.enable()
    faulthandler.register(DUMP, all_threads=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the coordinator decides
    try:
        assignment = unpack(connection.recv_bytes(), connection.recv_bytes())
        with guarded(), at_work(assignment.folder) if assignment.awaited else nullcontext():
            return serve(connection, assignment)
    except StorageError as error:
        return say(connection, "storage", str(error))
    except UserError as error:
        return say(connection, "refused", str(error))
    except (EOFError, BrokenPipeError):
        return 1
    except Exception:
        return say(connection, "broken", traceback.format_exc())


def say(connection: Connection, *message: Any) -> int:
    """Send a last message; the exit code."""
    with suppress(OSError):
        connection.send(message)
    return 1


def serve(connection: Connection, at: Assignment) -> int:
    """Make the backend, join the study, decode what comes."""
    backend = at.factory(at.plan)
    study = Study(at.folder).attach(backend.fingerprint)
    backend.begin(study, at.attempts)
    tasks = Tasks(study, backend, at.attempts, at.options, at.options.unit_timeout_s)
    connection.send(("ready", os.getpid()))
    with Presence(backend.place):
        while (group := connection.recv()) is not None:
            if not run_group(connection, tasks, group, at.options.fail_fast or at.options.max_failures > 0):
                return UNUSABLE
            connection.send(("idle",))
    study.close()
    return 0


def run_group(connection: Connection, tasks: Tasks, group: Group, ask: bool) -> bool:
    """Decode a group, unless told to stop between two tasks. False if this process is of no more use.

    ask: give the rest back after a failure, as the coordinator may want no more (`fail_fast`, `max_failures`).
    """
    shared: Any = None
    for index, task in enumerate(group.tasks):
        if connection.poll():
            return True  # None is waiting: no more tasks
        connection.send(("start", index))
        if index == 0:
            shared = tasks.share(group)
        outcome = tasks.run(task, shared)
        connection.send(("end", index, outcome))
        if outcome.unusable:
            return False
        if ask and outcome.failed:
            return True
    return True


def die_with_parent(fd: int) -> None:
    """End this process when the other end of the socket is gone; on Linux also by the kernel, should Python hang."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    poll = select.poll()
    poll.register(fd, 0)  # a closed peer is reported without being asked for

    def watch() -> None:
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
