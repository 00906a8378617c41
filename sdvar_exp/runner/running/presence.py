"""Notes who computes on a device of this machine, so that a time taken beside another worker is known for one.

Each process that decodes or times holds a lock on a file of its own, which the kernel drops with the process. It is told
what runs on the same device under this project only; other load is the user's to keep away.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from sdvar_exp.store.lock import flock, is_held

VARIABLE = "SDVAR_PRESENCE"
"""Another folder than that in the system's temporary folder, for machines whose containers share one device."""


STALE_S = 60.0


class Presence:
    """`with Presence("cpu") as here: here.others()`. device: a name that all processes of the machine use for it."""

    def __init__(self, device: str) -> None:
        root = Path(os.environ.get(VARIABLE) or Path(tempfile.gettempdir()) / "sdvar-exp-presence")
        self.folder = root / re.sub(r"[^A-Za-z0-9_.-]", "_", device)
        self._fd: int | None = None
        self._path = self.folder

    def __enter__(self) -> Presence:
        with suppress(OSError):  # without such a folder nobody is seen; that is no reason to stop
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder, self.folder.parent):
                with suppress(OSError):
                    folder.chmod(0o1777)
            fd, name = tempfile.mkstemp(prefix=f"{os.getpid()}-", dir=self.folder)
            os.fchmod(fd, 0o666)
            flock(fd)
            self._fd, self._path = fd, Path(name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._fd is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._fd)
            self._fd = None

    def others(self) -> bool:
        """Whether another process is there; files of processes that are gone are removed."""
        if self._fd is None:
            return False
        for path in self.folder.iterdir():
            if path != self._path and is_held(path):
                return True
            with suppress(OSError):
                if path != self._path and time.time() - path.stat().st_mtime > STALE_S:  # a new one may be about to be locked
                    path.unlink()
        return False
