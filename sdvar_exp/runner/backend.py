"""What an engine needs of whatever decodes: the seam between scheduling, which knows no torch, and models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from sdvar_exp.plan import Plan
from sdvar_exp.runner.work import Group, Task, UnitKey

if TYPE_CHECKING:
    from rich.console import Console

    from sdvar_exp.runner.interrupt import Interrupt
    from sdvar_exp.store import Study

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
        """Called once, before the first unit. attempts: failures of each unit so far; the caller keeps counting in it."""

    def share(self, group: Group) -> Any:
        """What the tasks of a group share, such as noise; handed to `evaluate`."""

    def evaluate(self, task: Task, shared: Any | None) -> list[Body]:
        """One record per unit of the task, images written; raises whatever goes wrong. shared: None to make it alone."""

    def free(self) -> None:
        """Give unused memory of the device back, after it ran out."""

    def record_noise(self) -> None:
        """Append the noise floor of the baselines, as far as the ledger lacks it."""

    def pending_timings(self) -> bool:
        """Whether anything is to be timed that is not timed yet."""

    def run_timing(self, console: Console, interrupt: Interrupt) -> int:
        """Time what is asked for and missing; the number of measurements that failed."""

    def trace(self, console: Console) -> int:
        """Decode once more what the plan asks for, with every step written down (`debug=trace`); how many failed."""


Factory = Callable[[Plan], Backend]
"""Makes a backend from a plan; can be pickled, so that workers make their own. Raises `UserError` if the plan cannot run."""
