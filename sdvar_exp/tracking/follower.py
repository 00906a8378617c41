"""The parent's side: start the child that pushes to W&B, and end it in bounded time. Never imports wandb.

Nothing here raises because of W&B: a sweep is not to fail for it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sdvar_exp.guest import with_package
from sdvar_exp.registry import declared
from sdvar_exp.tracking.options import Options, child_environment
from sdvar_exp.tracking.pushed import Pushed
from sdvar_exp.words import count

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """ok: everything that is complete was sent. message: one line for the user, empty where there is nothing to say."""

    ok: bool
    message: str = ""


class Follower:
    """A running child, or none (`process` is None: tracking is off, or the child could not be started)."""

    def __init__(self, folder: Path, options: Options, process: subprocess.Popen[bytes] | None, problem: str = "") -> None:
        self.folder = folder
        self.options = options
        self.process = process
        self.problem = problem

    def finish(self, timeout_s: float = 60.0) -> Outcome:
        """Tell the child that the ledger is complete, wait for it at most `timeout_s` seconds, then kill it."""
        if self.process is None:
            return Outcome(not self.problem, self.problem)
        with suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            code: int | None = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
            _kill(self.process)
        return self._outcome(code)

    def _outcome(self, code: int | None) -> Outcome:
        mode, place = self.options.mode, self.folder / "wandb"
        cells = len(Pushed(self.folder, self.options.place).cells)
        name, runs = _called(self.options), count(cells, "run")
        if code == 0:
            if not cells:
                return Outcome(True)
            if self.options.tracker != "wandb":
                where = declared("tracker", self.options.tracker, "where")
                seen = where(self.folder, self.options) if where else f"in project {self.options.project}"
                return Outcome(True, f"{name}: {runs} {seen}")
            hint = f"; send: sdvar-exp push {self.folder}" if mode == "offline" else ""
            return Outcome(True, f"{name}: {runs} in {place}{hint}")
        why = "did not finish in time" if code is None else _last_line(place / "follower.log")
        return Outcome(False, f"{name}: {why or f'exit code {code}'}; `sdvar-exp push` sends what is missing")


def _called(options: Options) -> str:
    """The name of a tracker as messages say it."""
    return f"W&B ({options.mode})" if options.tracker == "wandb" else options.tracker


def start_follower(
    folder: Path | str, options: Options | str = "offline", once: bool = False, plugins: Sequence[str] = ()
) -> Follower:
    """Start the child that follows a study's ledger. Its log is `<study>/wandb/follower.log`.

    options: a mode (`offline`, `online`, `none`) or `Options`; see `resolve`. once: push what is there and exit.
    plugins: modules that register trackers or metrics.
    """
    folder = Path(folder).resolve()
    options = Options(options) if isinstance(options, str) else options
    if options.mode == "none":
        return Follower(folder, options, None)
    command = [sys.executable, "-P", "-m", "sdvar_exp.tracking.follow", str(folder), *_arguments(options, plugins)]
    environment = with_package(child_environment(folder))
    try:
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        with open(folder / "wandb" / "follower.log", "ab") as output:
            process = subprocess.Popen(
                [*command, *(["--once"] if once else [])],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=folder / "wandb",
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the sweep
            )
    except OSError as error:
        why = f"cannot write {error.filename}: {error.strerror}" if error.filename else str(error)
        problem = f"{_called(options)}: not followed, {why}"
        if not once:  # a push says it at its end, which is now
            log.warning("%s", problem)
        return Follower(folder, options, None, problem)
    return Follower(folder, options, process)


def push_in_child(folder: Path | str, options: Options | str, timeout_s: float, plugins: Sequence[str] = ()) -> Outcome:
    """Push everything that has rows, in a child process that lives at most `timeout_s` seconds."""
    follower = start_follower(folder, options, once=True, plugins=plugins)
    if follower.process is not None:
        deadline = time.monotonic() + timeout_s
        with suppress(subprocess.TimeoutExpired):
            follower.process.wait(timeout_s)
        return follower.finish(max(0.0, deadline - time.monotonic()))
    return follower.finish(0.0)


def _arguments(options: Options, plugins: Sequence[str] = ()) -> list[str]:
    out = ["--mode", options.mode, "--project", options.project, "--tracker", options.tracker]
    out += [word for name in plugins for word in ("--plugin", name)]
    out += ["--entity", options.entity] if options.entity else []
    return out + (["--base-url", options.base_url] if options.base_url else [])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and what shares its session; W&B's own service ends when its parent is gone."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(OSError, subprocess.TimeoutExpired):
        process.kill()
        process.wait(5)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].split(" ERROR ", 1)[-1] if lines else ""
