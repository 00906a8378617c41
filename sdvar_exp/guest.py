"""A guest in somebody's program: what a command or a `Study` needs of the program's state, and gives back as it was.

Environment, streams and PyTorch's switches belong to the program that calls; a notebook, a training script or a terminal of
another alphabet sets them as it likes. Imports no torch by itself.
"""

from __future__ import annotations

import codecs
import faulthandler
import gc
import io
import json
import os
import platform
import random
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sdvar_exp.errors import UserError

PACKAGE_PARENT = Path(__file__).resolve().parents[1]
ESCAPED = "sdvar-escaped"
"""Error handler of a stream that cannot show a character: it is written as JSON escapes it, so that JSON stays JSON."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but for tab and line feed, what terminals take for a new line, and what turns the direction of text."""
MISUSED = ("strict", "surrogateescape")
COLLECT = (20_000, 20, 50)
"""Thresholds of the garbage collector: tables and figures make very many objects that stay, and looking takes a tenth."""

_entrance = threading.Lock()
_one_at_a_time = threading.RLock()
_inside = 0
_leaving = ExitStack()


@contextmanager
def guest() -> Iterator[None]:
    """Streams that take every character, matplotlib without the backend of a notebook, a stack where a fault ends the process.

    The last one to leave restores everything, whichever thread it is.
    """
    global _inside
    with _entrance:
        if not _inside:
            _settle(_leaving)
        _inside += 1
    try:
        yield
    finally:
        with _entrance:
            _inside -= 1
            if not _inside:
                _leaving.close()


def _settle(back: ExitStack) -> None:
    """Set up what a guest needs; `back` undoes it."""
    codecs.register_error(ESCAPED, _escaped)
    for name in ("stdout", "stderr"):
        _settle_stream(name, back)
    if "matplotlib" not in sys.modules and (backend := os.environ.pop("MPLBACKEND", None)) is not None:
        back.callback(_restore_backend, backend)
    back.callback(gc.set_threshold, *gc.get_threshold())
    gc.set_threshold(*COLLECT)
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        with suppress(OSError, ValueError, RuntimeError):  # closed, or no file
            faulthandler.enable(sys.__stderr__)
            back.callback(faulthandler.disable)


def _settle_stream(name: str, back: ExitStack) -> None:
    """A stream that is missing or closed swallows what it gets; one that knows few characters escapes the others."""
    stream = getattr(sys, name)
    if stream is None or getattr(stream, "closed", False):
        setattr(sys, name, _Writer(None))
        back.callback(setattr, sys, name, stream)
    elif not hasattr(stream, "flush"):
        setattr(sys, name, _Writer(stream))
        back.callback(setattr, sys, name, stream)
    elif isinstance(stream, io.TextIOWrapper) and stream.errors in MISUSED:
        errors = stream.errors
        stream.reconfigure(errors=ESCAPED)

        def restore() -> None:
            with suppress(OSError, ValueError):  # its reader may be gone, and it may be closed
                stream.reconfigure(errors=errors)

        back.callback(restore)


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


class _Writer(io.TextIOBase):
    """A stream over something that has `write` and little else, or over nothing."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if self.stream is not None:
            self.stream.write(text)
        return len(text)


def _restore_backend(backend: str) -> None:
    """Give matplotlib the backend that it would have taken from the environment, had we not imported it first."""
    os.environ["MPLBACKEND"] = backend
    matplotlib = sys.modules.get("matplotlib")
    if matplotlib is not None:
        with suppress(ValueError):  # of a package that is not installed here: matplotlib would not have been imported at all
            matplotlib.rcParams["backend"] = backend


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


@contextmanager
def own_torch() -> Iterator[None]:
    """PyTorch as a fresh process has it, apart from its float32 arithmetic, which is the program's choice; imports torch.

    Default dtype and device, autocast, inference and gradient mode, deterministic algorithms and the number of threads are
    set aside and given back. They belong to the whole process, so a second thread waits until the first one is through.
    """
    with _one_at_a_time, ExitStack() as back:
        import torch

        back.callback(torch.set_num_threads, torch.get_num_threads())
        if (dtype := torch.get_default_dtype()) != torch.float32:
            torch.set_default_dtype(torch.float32)
            back.callback(torch.set_default_dtype, dtype)
        if torch.are_deterministic_algorithms_enabled():
            warn = torch.is_deterministic_algorithms_warn_only_enabled()
            torch.use_deterministic_algorithms(False)
            back.callback(torch.use_deterministic_algorithms, True, warn_only=warn)
        if torch.get_default_device().type != "cpu":
            back.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                back.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_inference_mode_enabled():
            back.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            back.enter_context(torch.enable_grad())
        yield


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Python's and PyTorch's random state come back afterwards.

    Fresh modules draw the weights that a file then replaces, W&B's panels draw their names.
    """
    before, torch = random.getstate(), sys.modules.get("torch")
    try:
        with torch.random.fork_rng(devices=[]) if torch else nullcontext():
            yield
    finally:
        random.setstate(before)


def processor() -> str:
    """Name of the processor, as the system tells it."""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor()


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def with_package(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process that imports this package from where it lies."""
    paths = [str(PACKAGE_PARENT), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return {**environment, "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in paths)}


def expand(path: Path | str) -> Path:
    """A path whose `~` or `~name` is the home folder; `UserError` where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        name = str(path)
        shown = name if len(name) <= 80 else f"{name[:80]}…"
        raise UserError(f"there is no home folder {shown.split('/')[0]}, in {shown}; write the whole path") from None


def check_working_folder() -> None:
    """Raise `UserError` where the folder that the process stands in was removed: relative paths mean nothing there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working folder was removed; go to one that exists: cd") from None
