"""Keeps the terminal to text: control characters, of a foreign study's names and records too, are shown escaped."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but for tab and line feed, what terminals take for a new line, and what turns the direction of text."""


def visible(text: str) -> str:
    """Text with control characters as JSON escapes them, so that what is JSON stays the same JSON."""
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Guarded:
    """A text stream that gets `visible` text; rich, which guards its own, writes past it."""

    def __init__(self, stream: Any) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write; the number of characters of `text`."""
        self.rich_proxied_file.write(visible(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after another."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextmanager
def guarded() -> Iterator[None]:
    """Standard output and standard error are `Guarded` inside; a stream that is None, or replaced meanwhile, is let be."""
    before = sys.stdout, sys.stderr
    mine = tuple(stream if stream is None or isinstance(stream, Guarded) else Guarded(stream) for stream in before)
    sys.stdout, sys.stderr = mine
    try:
        yield
    finally:
        if sys.stdout is mine[0]:
            sys.stdout = before[0]
        if sys.stderr is mine[1]:
            sys.stderr = before[1]
