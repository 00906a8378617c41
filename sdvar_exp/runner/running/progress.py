"""Progress of a phase: a bar with the time left on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from sdvar_exp.words import duration

SHARES = 4
"""Plain lines per phase, unless it takes long."""
SECONDS = 60.0
"""At least one plain line in so many seconds."""


class Step(Protocol):
    """Tell that `count` more are done; `note` says of what, shown on a terminal."""

    def __call__(self, count: int = 1, note: str = "") -> None: ...


@contextmanager
def phase(console: Console, name: str, total: int) -> Iterator[Step]:
    """Show the progress of `total` things called `name`."""
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(name, total=total, note="")
            yield lambda count=1, note="": bar.update(task, advance=count, note=note)
    else:
        yield _Lines(console, name, total)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    return Progress(*columns, console=console, transient=False)


class _Lines:
    """Plain lines at a quarter, a half, … and at least once a minute."""

    def __init__(self, console: Console, name: str, total: int) -> None:
        self.console, self.name, self.total = console, name, total
        self.done = self.told = 0
        self.start = self.last = time.monotonic()

    def __call__(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now, share = time.monotonic(), self.done * SHARES // max(self.total, 1)
        if share > self.told or now - self.last > SECONDS:
            self.told, self.last = share, now
            spent = now - self.start
            left = spent / self.done * (self.total - self.done) if self.done else 0.0
            rest = f", about {duration(left)} left" if self.done < self.total else ""
            say(self.console, f"{self.name}: {self.done}/{self.total}, {duration(spent)}{rest}")


def say(console: Console, text: str, style: str = "") -> None:
    """One line as it is: no markup, no colours for numbers, no wrapping where there is no terminal."""
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal, highlight=False)


def shown(path: Path) -> str:
    """A path as short as it can be pasted: relative to the working directory if it lies there."""
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
