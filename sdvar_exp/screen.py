"""The one class of console, wherever output goes: a terminal, a file, a text in memory.

Text is shown with its control characters escaped, and a reader who goes away, e.g. `| head`, ends nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sdvar_exp.guest import visible


class Screen(Console):
    """Standard output. Where rich would end the program because nobody reads it any more, the rest is not shown."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of something to print, their text `visible`; colours and cursor movements are rich's own."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


class Faults(Screen):
    """Shows only what went wrong: the lines that others show in red or yellow."""

    def print(self, *objects: Any, **more: Any) -> None:
        if any(isinstance(one, Text) and re.search("red|yellow", str(one.style)) for one in objects):
            super().print(*objects, **more)
