"""Record of what was sent: `tracking/pushed.json`, per mode and cell {"run": id, "rows": n, "hash": of the content}.

A second push sends nothing where the hash is the same. Online, where a run is continued, `tracking/steps/<cell>.json`
holds the history steps that were given to rows: {"steps": {"label,seed": [step, hash of the row]}, "confirmed": steps
below this one have arrived, "next": the first free step}.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdvar_exp.errors import require
from sdvar_exp.store.files import atomic_write, storage_errors
from sdvar_exp.store.lock import flock, opened
from sdvar_exp.tracking.content import Content, row_hash

log = logging.getLogger(__name__)

Rows = list[tuple[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class Steps:
    """History steps of one run. given: by "label,seed" the step and the hash of the row that it holds."""

    given: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    confirmed: int = 0
    following: int = 0


class Pushed:
    """The memory of one study and one mode."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.folder = folder / "tracking"
        self.mode = mode
        found = _read(self.folder / "pushed.json")
        self._all: dict[str, dict[str, Any]] = {m: v for m, v in found.items() if isinstance(v, dict)}

    @property
    def cells(self) -> Mapping[str, Any]:
        """Records of this mode, by cell."""
        return self._all.get(self.mode, {})

    def has(self, content: Content) -> bool:
        """Whether exactly this content was sent."""
        return bool(self.cells.get(content.cell, {}).get("hash") == content.hash)

    def remember(self, content: Content) -> None:
        """The content was sent."""
        times = int(self.cells.get(content.cell, {}).get("times", 0)) + 1
        entry = {"run": content.run_id, "rows": len(content.rows), "hash": content.hash, "times": times}
        self._all = {**self._all, self.mode: {**self.cells, content.cell: entry}}
        _write(self.folder / "pushed.json", self._all)

    def steps(self, cell: str) -> Steps:
        """Steps of a cell's run; none if it was never sent."""
        found = _read(self.folder / "steps" / f"{cell}.json")
        try:
            given = {unit: (int(step), str(mark)) for unit, (step, mark) in found["steps"].items()}
            return Steps(given, int(found["confirmed"]), int(found["next"]))
        except (KeyError, ValueError, TypeError, AttributeError):
            return Steps()

    def remember_steps(self, cell: str, steps: Steps) -> None:
        """Write steps down: before they are used, and with `confirmed` after they have arrived."""
        plain = {"steps": dict(steps.given), "confirmed": steps.confirmed, "next": steps.following}
        _write(self.folder / "steps" / f"{cell}.json", plain)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError) as error:
        log.warning("%s cannot be read, its cells will be sent again: %s", path, error)
        return {}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    atomic_write(path, (json.dumps(value, indent=1) + "\n").encode(), durable=True)


def plan_steps(content: Content, before: Steps) -> tuple[Steps, Rows]:
    """Steps for the rows that have not arrived as they are now: what to remember first, and the (step, row) to log.

    History is append-only. A row that has arrived keeps its step; a new or changed one is logged at a step of its own
    behind all others. A step that was given out but not confirmed is used again for the same row.
    """
    given = dict(before.given)
    following = before.following
    rows: Rows = []
    for (label, seed), row in content.rows:
        unit, mark = f"{label},{seed}", row_hash(row)
        step, known = given.get(unit, (-1, ""))
        if known != mark:
            step, following = following, following + 1
            given[unit] = (step, mark)
        elif step < before.confirmed:
            continue
        rows.append((step, row))
    return Steps(given, before.confirmed, following), sorted(rows, key=lambda pair: pair[0])


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the right to push a study. `UserError` if another process is pushing it."""
    path = folder / "tracking" / "push.lock"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path) as fd:
        require(flock(fd), f"another process is pushing {folder} to W&B; wait for it to end")
        yield
