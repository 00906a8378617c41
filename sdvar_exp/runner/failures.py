"""Units that failed: what is written down, what is tried again and when a run gives up. No torch."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sdvar_exp.cell import Unit
from sdvar_exp.errors import UserError
from sdvar_exp.runner.work import Task, UnitKey
from sdvar_exp.store import Study

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
        "traceback": traceback_text,
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
