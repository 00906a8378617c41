"""The protocol of engines, and what a run owes to one that came before it. No torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from sdvar_exp.errors import UserError, require
from sdvar_exp.plan import Settings
from sdvar_exp.runner.work import Group
from sdvar_exp.store.lock import flock

if TYPE_CHECKING:
    from sdvar_exp.runner.sweep import Sweep

ENGINES = ("inprocess", "pool", "slurm")
"""Modules of `sdvar_exp.engines`; only the chosen one is imported."""

ORPHANS_S = 20.0


class Detached(Exception):
    """The work goes on without this process. lines: how to follow it."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines


class Engine(Protocol):
    """How the units of a study are run. Rows go to the ledger; what fails is recorded and counted in the sweep."""

    def run_units(self, sweep: Sweep, pending: Sequence[Group]) -> None:
        """Decode what is pending. Raises `StorageError`, `KeyboardInterrupt`, `Detached`."""

    def run_timing(self, sweep: Sweep) -> int:
        """Time what is missing, alone on the device; the number of measurements that failed."""


def make_engine(settings: Settings) -> Engine:
    """The engine of a plan; `UserError` where there is none, or it lacks what it needs."""
    require(settings.engine in ENGINES, f"engine must be one of {', '.join(ENGINES)}, got {settings.engine!r}")
    module = import_module(f"sdvar_exp.engines.{settings.engine}")
    return cast(Engine, module.make(settings))


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Around the work of a child process on a study: who starts next waits for its end."""
    fd = os.open(folder / "workers.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        flock(fd, shared=True, wait=True)
        yield
    finally:
        os.close(fd)


def wait_for_workers(folder: Path, patience_s: float = ORPHANS_S) -> None:
    """Wait for children whose coordinator was killed: they end by themselves, but may be in the middle of a row."""
    path = folder / "workers.lock"
    if not path.exists():
        return
    deadline = time.monotonic() + patience_s
    fd = os.open(path, os.O_RDWR)
    try:
        while not flock(fd):
            if time.monotonic() > deadline:
                raise UserError(f"workers of an earlier run are still busy with {folder}; stop them first")
            time.sleep(0.02)
    finally:
        os.close(fd)
