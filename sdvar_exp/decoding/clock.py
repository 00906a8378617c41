"""Time by section without synchronising inside the loop: CUDA events on CUDA, the wall clock elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Sections are exclusive of each other; `ms` synchronises once and gives milliseconds by section."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.cuda = torch.device(device).type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def __call__(self, section: str) -> Iterator[None]:
        start = self._mark()
        yield
        self._spans.append((section, start, self._mark()))

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def ms(self) -> dict[str, float]:
        """Milliseconds spent in each section so far."""
        if self.cuda:
            torch.cuda.synchronize()
        out: dict[str, float] = defaultdict(float)
        for section, start, stop in self._spans:
            out[section] += start.elapsed_time(stop) if self.cuda else (stop - start) * 1e3
        return dict(out)


def now_ms(device: torch.device | str) -> float:
    """Wall clock in milliseconds after all queued work of the device is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() * 1e3
