"""Protocols of engines and of backends, which decode for them, and how a run waits for the children of one before it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sdvar_exp.errors import UserError, require
from sdvar_exp.plan import Plan, Settings
from sdvar_exp.runner.running.work import Group, Task
from sdvar_exp.store.lock import held, is_held
from sdvar_exp.store.state import UnitKey

if TYPE_CHECKING:
    from sdvar_exp.runner.running.interrupt import Interrupt
    from sdvar_exp.runner.running.sweep import Sweep
    from sdvar_exp.store import Study
if TYPE_CHECKING:
    from rich.console import Console


ENGINES = ("inprocess", "pool", "slurm")
"""Modules of `sdvar_exp.engines`; only the chosen one is imported."""

ORPHANS_S = 20.0


class Detached(Exception):
    """The work goes on without this process. lines: how to follow it."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines


class Engine(Protocol):
    """An engine runs the units of a study. Rows go to the ledger; what fails is recorded and counted in the sweep."""

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
    with held(folder / "workers.lock", shared=True):
        yield


def wait_for_workers(folder: Path, patience_s: float = ORPHANS_S) -> None:
    """Wait for children whose coordinator was killed: they end by themselves, but may be in the middle of a row."""
    path = folder / "workers.lock"
    deadline = time.monotonic() + patience_s
    while is_held(path):
        if time.monotonic() > deadline:
            raise UserError(f"workers of an earlier run are still busy with {folder}; stop them first")
        time.sleep(0.02)


Body = dict[str, Any]


class Backend(Protocol):
    """Decodes the units of a plan in one process.

    plan: with the baselines that it lacked. added: names of those. fingerprint: what may change a result. models: names
    for people. device, threads: what it computes on. place: the device as all processes of the machine name it.
    """

    plan: Plan
    added: tuple[str, ...]
    fingerprint: Mapping[str, Any]
    models: tuple[str, ...]
    device: str
    place: str
    threads: int

    def begin(self, study: Study, attempts: Counter[UnitKey]) -> None:
        """Called before the first unit, and again when `plan` was widened. attempts: failures of each unit so far; the caller
        keeps counting in it."""

    def share(self, group: Group) -> Any:
        """State that the tasks of a group share, such as noise; handed to `evaluate`."""

    def evaluate(self, task: Task, shared: Any | None) -> list[Body]:
        """One record per unit of the task, images written; raises whatever goes wrong. shared: None to make it alone."""

    def free(self) -> None:
        """Give unused memory of the device back, after it ran out."""

    def record_noise(self) -> None:
        """Append the noise floor of the baselines, as far as the ledger lacks it."""

    def pending_timings(self) -> bool:
        """Whether anything is to be timed that is not timed yet, or only beside another process."""

    def lacks_timings(self) -> bool:
        """Whether anything is to be timed that was not timed at all."""

    def run_timing(self, console: Console, interrupt: Interrupt) -> int:
        """Time what is asked for and missing; the number of measurements that failed."""

    def trace(self, console: Console) -> int:
        """Decode once more what the plan asks for, with every step written down (`debug=trace`); how many failed."""


Factory = Callable[[Plan], Backend]
"""Makes a backend from a plan; can be pickled, so that workers make their own. Raises `UserError` if the plan cannot run."""
