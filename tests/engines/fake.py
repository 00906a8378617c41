"""A backend without models: a table of tokens by (cell, label, seed, stage). No torch; a process can be told to fail.

`Fake(...)` is the factory that an engine pickles. Troubles are given by (label, seed), or by (cell name, label, seed), and
happen `times` times; how often they did is counted in files, so that a new process knows.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdvar_exp.plan import Plan
from sdvar_exp.runner.running.work import Group, Task, timings
from sdvar_exp.store import Study
from sdvar_exp.store.ledger import LedgerReader

FINGERPRINT = {
    "code": "c0de",
    "checkpoints": {"fake": {"vae": "a1"}},
    "packages": {},
    "device_kind": "cpu",
    "dtype": "float32",
    "threads": 1,
}


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class AcceleratorError(RuntimeError):
    """Named as torch's."""


@dataclass(frozen=True)
class Trouble:
    """What goes wrong: raise, bad_config, flaky, segfault, kill, hang, deaf (hangs where no signal is heard), oom, poisoned."""

    kind: str
    times: int = 1_000_000


@dataclass(frozen=True)
class Fake:
    """Makes the backend. marks: a folder for the counts of troubles. largest: more images at once run out of memory.

    code_elsewhere: the code version in every process but the one that made this.
    """

    delay_s: float = 0.0
    troubles: Mapping[tuple[Any, ...], Trouble] = field(default_factory=dict)
    marks: Path | None = None
    largest: int = 1_000_000
    code: str = "c0de"
    code_elsewhere: str = ""
    home: int = field(default_factory=os.getpid)

    def __call__(self, plan: Plan) -> FakeBackend:
        return FakeBackend(plan, self)


def table(cell: str, label: int, seed: int, stage: int) -> list[int]:
    """The tokens of a stage: looked up, not computed."""
    digest = hashlib.sha256(f"{cell} {label} {seed} {stage}".encode()).digest()
    return [b % 16 for b in digest[: (stage + 1) ** 2]]


class FakeBackend:
    """See `sdvar_exp.runner.running.protocol.Backend`."""

    added: tuple[str, ...] = ()
    models = ("fake",)
    device, place, threads = "cpu", "fake", 1

    def __init__(self, plan: Plan, fake: Fake) -> None:
        self.plan, self.fake = plan, fake
        self.fingerprint = {**FINGERPRINT, "code": fake.code}
        if fake.code_elsewhere and os.getpid() != fake.home:
            self.fingerprint["code"] = fake.code_elsewhere
        self.names = {p.cell.id: p.name for p in plan.cells}
        self.loaded = 1

    def begin(self, study: Study, attempts: Counter[tuple[str, int, int]]) -> None:
        self.study, self.attempts = study, attempts

    def share(self, group: Group) -> str:
        return f"noise of {group.units}"

    def evaluate(self, task: Task, shared: Any | None) -> list[dict[str, Any]]:
        if len(task.units) > self.fake.largest:
            raise OutOfMemoryError(f"{len(task.units)} images at once")
        time.sleep(self.fake.delay_s)
        for unit in task.units:
            for key in ((unit.label, unit.seed), (task.planned.name, unit.label, unit.seed)):
                self._trouble(key)
        for unit in task.units:
            if self.plan.settings.images != "none":
                shade = np.full((3, 4, 4), table(task.cell.id, unit.label, unit.seed, 0)[0] / 16)
                self.study.write_image(task.cell.id, unit.label, unit.seed, shade)
        return [self._body(task.cell.id, unit.label, unit.seed) for unit in task.units]

    def _body(self, cell: str, label: int, seed: int) -> dict[str, Any]:
        baseline = self.plan.cells[0].cell.id
        stages, equal, count = [], 0, 0
        for k in range(4):
            mine, base = table(cell, label, seed, k), table(baseline, label, seed, k)
            same = sum(a == b for a, b in zip(mine, base, strict=True))
            equal, count = equal + same, count + len(mine)
            stages.append({"stage": k, "source": "verified", "passed": same == len(mine), "token_agreement": same / len(mine)})
        modules = "torch" in sys.modules
        sample = {
            "token_agreement": equal / count,
            "pixel_mae": 1 - math.sqrt(equal / count),
            "target_calls": sum(not s["passed"] for s in stages),
            "identical": equal == count,
            "host": f"torch={modules}",  # a column that stable tables leave out
            "attempt": self.attempts[cell, label, seed] + 1,
        }
        return {"type": "unit", "cell": cell, "label": label, "seed": seed, "sample": sample, "stages": stages}

    def _trouble(self, key: tuple[Any, ...]) -> None:
        trouble = self.fake.troubles.get(key)
        if trouble is None or self._count(key) > trouble.times:
            return
        act(trouble.kind)

    def _count(self, key: tuple[Any, ...]) -> int:
        if self.fake.marks is None:
            return 1
        path = self.fake.marks / "-".join(map(str, key))
        with open(path, "ab") as file:
            file.write(b".")
        return path.stat().st_size

    def free(self) -> None:
        pass

    def record_noise(self) -> None:
        pass

    def pending_timings(self) -> bool:
        return bool(self._missing())

    def lacks_timings(self) -> bool:
        return bool(self._missing())

    def _missing(self) -> list[tuple[str, int, int, int]]:
        timed: dict[tuple[str, int, int], set[int]] = {}
        for b in LedgerReader(self.study.ledger).read(containing=b'"type":"timing"'):
            timed.setdefault((b["cell"], b["label"], b["seed"]), set()).add(b["repeat"])
        work = timings(self.plan, self.study.done(), timed)
        return [(*t.task.unit_keys[0], r) for _, tasks in work for t in tasks for r in t.repeats]

    def run_timing(self, console: Any, interrupt: Any) -> int:
        for cell, label, seed, repeat in self._missing():
            self.study.append(
                {
                    "type": "timing",
                    "cell": cell,
                    "label": label,
                    "seed": seed,
                    "repeat": repeat,
                    "order": "AB",
                    "baseline_ms": 2.0,
                    "cell_ms": 1.0,
                    "baseline_decode_ms": 1.0,
                    "cell_decode_ms": 1.0,
                    "contended": False,
                    "breakdown": {},
                    "pid": os.getpid(),
                }
            )
        return 0

    def trace(self, console: Any) -> int:
        raise NotImplementedError("there are no models to watch")


def act(kind: str) -> None:
    """Go wrong."""
    if kind == "raise":
        raise ValueError("no such code")
    if kind == "bad_config":
        from sdvar_exp.errors import UserError

        raise UserError("these do not fit together")
    if kind == "flaky":
        raise ConnectionError("the file server did not answer")
    if kind == "oom":
        raise OutOfMemoryError("tried to allocate 20 GiB")
    if kind == "poisoned":
        raise AcceleratorError("an illegal memory access was encountered")
    if kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "deaf":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    while kind in ("hang", "deaf"):
        time.sleep(0.05)


class Unfindable(Fake):
    """Cannot be imported where it says it is."""

    def __call__(self, plan: Plan) -> FakeBackend:
        return FakeBackend(plan, Fake())

    def __reduce__(self) -> tuple:
        return (_import_nothing, ())


def _import_nothing() -> Unfindable:
    import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401

    return Unfindable()
