"""Peak memory of one decode: allocated by PyTorch on CUDA, resident memory of the process on Linux, unknown elsewhere."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

RESET_PEAK = "5"  # proc(5): resets the peak resident set size


class PeakMemory:
    """Starts to watch when made; `bytes()` is the peak since then, models included, or None where it is not known."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device if device.type == "cuda" else None
        self.watched = False
        if self.cuda is not None:
            torch.cuda.reset_peak_memory_stats(self.cuda)
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text(RESET_PEAK)
                self.watched = True

    def bytes(self) -> int | None:
        """Peak in bytes."""
        if self.cuda is not None:
            return int(torch.cuda.max_memory_allocated(self.cuda))
        if not self.watched:
            return None
        with suppress(OSError):
            found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
            return int(found.group(1)) * 1024 if found else None
        return None
