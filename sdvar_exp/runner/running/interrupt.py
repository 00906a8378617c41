"""Ctrl-C, SIGTERM and SIGUSR1 (a scheduler's notice): the unit at work is finished first.

A second signal stops at once and the unit is rolled back.

A unit without a row never happened, so stopping anywhere is safe; finishing the unit merely wastes nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
NOTE = b"\nstopping after this unit; once more: at once\n"


class Interrupt:
    """State of one run. `KeyboardInterrupt` is raised at once outside `shield`, at its end inside. number: the last signal."""

    def __init__(self) -> None:
        self._shielded = False
        self._asked = False
        self.number = int(signal.SIGINT)

    @property
    def asked(self) -> bool:
        """Whether a signal came; inside `shield`, to end what is in there soon."""
        return self._asked

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Around one unit: a first signal waits for its end."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._asked:
            raise KeyboardInterrupt

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        first, self._asked = not self._asked, True
        self.number = number
        if not (self._shielded and first):
            raise KeyboardInterrupt
        with suppress(OSError):  # there may be no standard error
            os.write(2, NOTE)  # no buffered stream: the signal may have come in the middle of a write


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Handle `SIGNALS` through an `Interrupt`; only a main thread can, others get one that no signal reaches.

    A signal whose handler was not set from Python keeps it: it could not be given back.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not None}
    for number in before:
        signal.signal(number, interrupt.handle)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
