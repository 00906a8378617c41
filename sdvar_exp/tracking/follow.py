"""The child process: `python -m sdvar_exp.tracking.follow <study folder> --mode offline|online`.

It follows the ledger and pushes a cell once it is complete (all planned units and timings). When its standard input ends,
because the parent called `finish` or died, it pushes what has settled since and exits; a watchdog ends it `--grace`
seconds later, whatever a server does. A server that refuses is tried again after a pause, and once more at the end.
With `--once` it pushes everything that has rows and exits.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sdvar_exp import registry
from sdvar_exp.errors import UserError
from sdvar_exp.guest import Guarded
from sdvar_exp.tracking.options import MODES, Options
from sdvar_exp.tracking.progress import Progress
from sdvar_exp.tracking.sink import push

log = logging.getLogger("sdvar_exp.tracking")

SENT, FAILED, GAVE_UP = 0, 1, 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 600.0
NICENESS = 10

Push = Callable[[Sequence[str]], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all sent, 1 something is not, 3 the watchdog ended it."""
    parser = argparse.ArgumentParser(prog="python -m sdvar_exp.tracking.follow", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--project", default=Options.project)
    parser.add_argument("--entity")
    parser.add_argument("--tracker", default=Options.tracker)
    parser.add_argument("--plugin", action="append", default=[])
    parser.add_argument("--base-url")
    parser.add_argument("--poll", type=float, default=2.0, help="seconds between looks at the ledger")
    parser.add_argument("--quiet", type=float, default=10.0, help="seconds without a timing record before it pushes")
    parser.add_argument("--grace", type=float, default=600.0, help="seconds it may live on after its parent")
    parser.add_argument("--once", action="store_true")
    args = parser.parse_args(argv)
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, stream=Guarded(sys.stderr))
    with suppress(OSError, AttributeError):
        os.nice(NICENESS)
    options = Options(args.mode, args.project, args.entity, args.base_url, args.tracker)
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended, args.grace), daemon=True).start()
    try:
        registry.discover(args.plugin)
        if args.once:
            push(args.folder, options)
        else:
            follow(args.folder, lambda cells: _push(args.folder, options, cells), ended, args.poll, args.quiet)
    except UserError as error:
        log.error("%s", error)
        return FAILED
    return SENT


def _push(folder: Path, options: Options, cells: Sequence[str]) -> None:
    push(folder, options, cells)


def follow(folder: Path, send: Push, ended: threading.Event, poll_s: float, quiet_s: float) -> None:
    """Push settled cells until `ended` is set, then once more. `send` is called with the cells that settled newly."""
    progress = Progress(folder)
    sent: set[str] = set()
    pause, not_before = FIRST_PAUSE_S, 0.0
    while not ended.wait(poll_s):
        progress.update()
        ready = [c for c in progress.settled(final=False) if c not in sent]
        if not ready or progress.timing_now(quiet_s) or time.monotonic() < not_before:
            continue
        start = time.monotonic()
        try:
            send(ready)
            sent |= set(ready)
            pause = FIRST_PAUSE_S
            not_before = start + 10 * (time.monotonic() - start)  # a tenth of one core at most
        except UserError as error:
            not_before, pause = time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE_S)
            log.warning("%s", error)
    progress.update()
    ready = progress.settled(final=True)
    if ready:
        send(ready)


def _wait_for_end(ended: threading.Event, grace_s: float) -> None:
    """Read standard input to its end, which the parent's end brings too; then limit this process's life."""
    with suppress(OSError, ValueError):
        while os.read(0, 4096):
            pass
    ended.set()
    time.sleep(grace_s)
    log.error("gave up after %.0f s", grace_s)
    os._exit(GAVE_UP)


if __name__ == "__main__":
    sys.exit(main())
