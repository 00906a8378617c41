"""A console whose reader may go away, e.g. `| head`: nothing more is shown, and what runs goes on."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from rich.console import Console


class Screen(Console):
    """Standard output. Where rich would end the program because nobody reads it any more, the rest is not shown."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
