"""The coordinator's side of one worker process: start it, talk to it, see how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from sdvar_exp.engines.worker import DUMP
from sdvar_exp.guest import with_package
from sdvar_exp.runner.running.work import Group, Task

LOG_TAIL = 8000
PROGRAM = "import sys; from sdvar_exp.engines.worker import main; sys.exit(main(int(sys.argv[1])))"


class WorkerProcess:
    """A worker. group: what it was given; current: index of the task at work; since: when that began; over: tasks ended."""

    def __init__(self, number: int, log: Path, first_messages: list[bytes], environment: dict[str, str]) -> None:
        self.number, self.log = number, log
        self.group: Group | None = None
        self.current: int | None = None
        self.over = 0
        self.since = 0.0
        self.ready = False
        self.stopping = False
        self.timed_out = False
        self.connection, other = Pipe()
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, str(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[other.fileno()],
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the coordinator
            )
        other.close()
        with suppress(OSError):  # it is gone already: found out where its messages are read
            for message in first_messages:
                self.connection.send_bytes(message)

    @property
    def task(self) -> Task | None:
        """The task at work."""
        return None if self.group is None or self.current is None else self.group.tasks[self.current]

    def give(self, group: Group) -> None:
        """Hand over a group."""
        self.group, self.current, self.over = group, None, 0
        with suppress(OSError):
            self.connection.send(group)

    def stop(self) -> None:
        """Ask it to end after the task at work; one that still loads its models has none, and is ended at once."""
        if not self.stopping:
            self.stopping = True
            if not self.ready:
                self.kill()
            with suppress(OSError):
                self.connection.send(None)

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Messages since the last call; raises `EOFError` behind the last message of one that ended."""
        while self.connection.poll():
            try:
                yield self.connection.recv()
            except OSError as error:
                raise EOFError from error

    @property
    def rest(self) -> Group | None:
        """Tasks that it was given and did not begin."""
        if self.group is None:
            return None
        begun = self.over + (self.current is not None)
        return replace(self.group, tasks=self.group.tasks[begun:]) if begun < len(self.group.tasks) else None

    def kill(self, dump: bool = False) -> None:
        """End it now. dump: let it write first where it is."""
        with suppress(OSError):
            if dump:
                os.kill(self.process.pid, DUMP)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.2)
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> int:
        """Wait for its end and close the connection; its exit code."""
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.connection.close()
        return code

    def log_tail(self) -> str:
        """The end of what it wrote to its log."""
        try:
            return self.log.read_bytes()[-LOG_TAIL:].decode(errors="replace").strip()
        except OSError:
            return ""


def ending(code: int) -> str:
    """Words for how a process ended."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    hint = {"SIGKILL": ", as the kernel does where memory runs out", "SIGSEGV": ", a segmentation fault"}.get(name, "")
    return f"killed by {name}{hint}"


def environment_of(number: int, gpus: list[str]) -> dict[str, str]:
    """A worker's environment: its GPU, if there are any, and the package where it was started from."""
    environment = with_package(os.environ)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return environment


@contextmanager
def log_folder(folder: Path) -> Iterator[Path]:
    """`<study>/logs`, without the logs that stayed empty at the end."""
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    try:
        yield logs
    finally:
        for path in logs.glob("worker-*.log"):
            with suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()
        with suppress(OSError):
            logs.rmdir()
