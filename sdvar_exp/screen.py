"""The one class of console, wherever output goes: a terminal, a file, a text in memory.

Text is shown with its control characters escaped, and a reader who goes away, e.g. `| head`, ends nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

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
