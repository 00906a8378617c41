"""`sdvar-exp report`: one HTML file of a study."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from sdvar_exp.cli.options import Parser, seconds
from sdvar_exp.cli.status import state_of
from sdvar_exp.cli.studies import study_of, study_parser
from sdvar_exp.guest import expand
from sdvar_exp.words import count, roughly, size

EVERY_S = 10.0
IDLE = 9
"""A page is not written again before so many times what writing it took have gone by."""


def parser() -> Parser:
    known = study_parser(
        "report",
        "Write one HTML file of a study that needs no network and no other file: summary, table of "
        "cells to sort and filter, figures, images compared with a slider, decodes stage by stage, "
        "configuration and provenance. From the results store alone; draws the figures if there "
        "are none. A run of up to 2000 images ends with it too; one of more says this command.",
    )
    known.add_argument("--out", type=expand, help="the file (default: report.html in the study's folder, beside its images)")
    known.add_argument(
        "--watch",
        action="store_true",
        help="write the page again and again while the study runs elsewhere, with what has not begun and the time "
        "left; ends when the study is complete, or by Ctrl-C",
    )
    known.add_argument(
        "--every", type=seconds, default=EVERY_S, metavar="SECONDS", help=f"with --watch: how often (default: {EVERY_S:g})"
    )
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    folder = study_of(asked)
    from sdvar_exp.report.page import write_page

    if asked.watch:
        try:
            watch(folder, asked.out, asked.every, quiet=asked.json)
        except KeyboardInterrupt:
            print("stopped watching; the page is as it was written last")
            return 0
    faults: list[str] = []
    path = write_page(folder, asked.out, faults=faults)
    count_bytes = path.stat().st_size
    if asked.json:
        print(
            json.dumps(
                {"folder": str(folder), "page": str(path), "bytes": count_bytes, "faults": faults}, indent=1, ensure_ascii=False
            )
        )
    else:
        print(f"page     {path}  ({size(count_bytes)})")
    for line in faults if not asked.json else ():
        print(f"failed   {line}")
    return 1 if faults else 0


def watch(folder: Path, out: Path | None, every: float, quiet: bool = False) -> None:
    """Write the page of a running study whenever its ledger has grown, until it is complete.

    Reads alone: no lock is taken that the run could wait for, at the lowest priority that the system knows.
    """
    from sdvar_exp.report.page import Live, write_page

    if hasattr(os, "nice"):
        os.nice(19)
    seen: Any = None
    while not complete(state := state_of(folder)):
        start = time.monotonic()
        now = (state["lock"]["state"], state["done"], state["failed"], state["untimed"])
        if now != seen and state["cells"]:
            waiting = tuple(c["name"] for c in state["cells"] if not c["done"] + c["failed"])
            planned = sum(c["planned"] + c["timings_planned"] for c in state["cells"])
            left = state["pending"] - state["failed"] + state["untimed"]
            path = write_page(folder, out, live=Live(planned - left, planned, far(state), waiting, every))
            if not quiet and seen is None:
                print(f"page     {path}  (open it in a browser, where it reads itself again; Ctrl-C ends)", flush=True)
            seen = now
        time.sleep(max(every, IDLE * (time.monotonic() - start)))


def complete(state: dict[str, Any]) -> bool:
    """Whether nothing is left to do and nobody is at work: every image has a row or failed, every timing is there."""
    return (
        bool(state["cells"])
        and state["lock"]["state"] != "live"
        and state["pending"] <= state["failed"]
        and not state["untimed"]
    )


def far(state: dict[str, Any]) -> str:
    """One sentence: how many units of a study are done."""
    cells = state["cells"]
    done, planned = state["done"], sum(c["planned"] for c in cells)
    timings = sum(c["timings_planned"] for c in cells)
    words = [f"{done} of {count(planned, 'image')} decoded"]
    words += [f"{timings - state['untimed']} of {count(timings, 'timing')} made"] if timings else []
    words += [f"{state['failed']} failed"] if state["failed"] else []
    known = [state[name] for name in ("seconds_left", "timing_seconds_left") if state[name]]
    missing = (state["pending"] and not state["seconds_left"]) or (state["untimed"] and not state["timing_seconds_left"])
    left = (
        f"about {roughly(sum(known))} left" + (", timing not counted" if state["untimed"] and missing else "") if known else ""
    )
    who = "Running" if state["lock"]["state"] == "live" else "Not running; the same command goes on"
    at = time.strftime("%H:%M:%S")
    return f"{who}: {', '.join(words)}{f'; {left}' if left else ''}. Written at {at}."
