"""Locks between processes: `flock` on an open file, and a study's one coordinator, whose lock file names it.

The coordinator's lock is free again once its holder is gone. The file holds host, pid and start time of the process (a pid
may be given again to another process). The holder also keeps an advisory lock on the file, which the kernel drops with the
process: taking over a stale lock is thus safe against two starts at once. Where the file system has no advisory locks, host,
pid and start time decide alone.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sdvar_exp.errors import UserError
from sdvar_exp.store.files import storage_errors

log = logging.getLogger(__name__)


PATIENCE_S = 10.0
"""Seconds that an advisory lock may outlive the process that took it."""


class InUse(UserError):
    """Another process has the study open."""


class StudyLock:
    """The lock file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._pid = 0

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._fd is not None

    def acquire(self) -> None:
        """Take the lock. `UserError` with host and pid if another process holds it; `StorageError` if it cannot be."""
        deadline = time.monotonic() + PATIENCE_S
        while self._fd is None:
            with storage_errors(self.path):
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if self._try(fd, deadline):
                    self._fd, self._pid = fd, os.getpid()
                    return
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _try(self, fd: int, deadline: float) -> bool:
        """True if the lock is now ours, False if the attempt must start again.

        That is if the file was removed meanwhile, or, until the deadline, if the holder is gone and its advisory lock is
        not: a process that it was just starting has the lock too, until that process has loaded its program.
        """
        if not flock(fd):
            holder = _read_patiently(fd)
            if holder and not _alive(holder) and time.monotonic() < deadline:
                return False
            raise self._refusal(holder)
        if not _same_file(fd, self.path):
            return False
        holder = _read(fd)
        if holder and _alive(holder):
            raise self._refusal(holder)
        if holder:
            log.info("%s: taking over the lock of pid %s, which is gone", self.path, holder.get("pid"))
        me = {"host": socket.gethostname(), "pid": os.getpid(), "started": start_time(os.getpid())}
        with storage_errors(self.path):
            try:
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps(me).encode(), 0)
                os.fsync(fd)
            except OSError:
                self.path.unlink(missing_ok=True)
                raise
        return True

    def _refusal(self, holder: dict[str, Any]) -> InUse:
        host, pid = holder.get("host", "unknown"), holder.get("pid", "unknown")
        hint = "" if host == socket.gethostname() else f", or remove {self.path} if that process is gone"
        return InUse(f"study {self.path.parent} is in use by pid {pid} on host {host}; wait for it to end or stop it{hint}")

    def release(self) -> None:
        """Give the lock back; harmless if it is not held, and in a forked child."""
        if self._fd is None:
            return
        if self._pid == os.getpid() and _same_file(self._fd, self.path):
            with suppress(OSError):
                self.path.unlink()
        with suppress(OSError):
            os.close(self._fd)
        self._fd = None


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """The descriptor of a lock file, made where it is missing; whatever lock is taken of it ends with the `with`."""
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def held(path: Path, shared: bool = False) -> Iterator[None]:
    """Wait for the lock of a file and hold it. No more than good will where the file system has no advisory locks."""
    with opened(path) as fd:
        flock(fd, shared, wait=True)
        yield


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock of a file."""
    with suppress(OSError), path.open("rb+") as file:
        return not flock(file.fileno())
    return False


def flock(fd: int, shared: bool = False, wait: bool = False) -> bool:
    """Take the advisory lock of an open file, which ends with the process; False if another open file has it.

    True also where the file system knows no such locks. shared: beside others that share it. wait: until it is free.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("no advisory locks here: %s", error)
    return True


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _read(fd: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(fd, 4096, 0) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _read_patiently(fd: int) -> dict[str, Any]:
    """The holder's name, which it writes just after it got the lock, over that of one that is gone."""
    holder: dict[str, Any] = {}
    for _ in range(40):
        holder = _read(fd)
        if holder and _alive(holder):
            break
        time.sleep(0.05)
    return holder


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the named process may still run. Another host cannot be asked: yes."""
    if holder.get("host") != socket.gethostname():
        return True
    pid = holder.get("pid")
    if not isinstance(pid, int) or not process_exists(pid):
        return False
    started = holder.get("started")
    return started is None or started == start_time(pid)


def process_exists(pid: int) -> bool:
    """Whether a process of this host has the pid and has not ended (one that nobody has waited for yet has ended)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError, IndexError):
        return _stat_fields(pid)[0] not in "ZX"
    return True


def start_time(pid: int) -> str | None:
    """Start time of a process of this host, as text to compare; None where the system does not tell."""
    with suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{_stat_fields(pid)[19]}"
    with suppress(OSError, subprocess.SubprocessError):
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip() or None
    return None


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the third on (the second, the name, may hold spaces and brackets)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def holder_of(path: Path) -> tuple[dict[str, Any], bool] | None:
    """Holder in a lock file, and whether that process may still run (one on another host counts as running); None: no lock."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        holder = _read(fd)
    finally:
        os.close(fd)
    return holder, bool(holder) and _alive(holder)
