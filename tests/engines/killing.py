"""Runs in processes of their own, and their sudden ends."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from sdvar_exp.plan import Plan
from sdvar_exp.runner.running.protocol import Factory

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = """
import pickle, sys
plan, backend = pickle.load(sys.stdin.buffer)
from rich.console import Console
from sdvar_exp.runner.running.run import run_study
sys.exit(run_study(plan, Console(width=200), backend=backend))
"""


def start(plan: Plan, fake: Factory) -> subprocess.Popen[bytes]:
    """A run in another process; its heading has been printed when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(pickle.dumps((plan, fake)))
    process.stdin.close()
    line = process.stdout.readline()
    assert b"images" in line, line.decode() + process.stdout.read().decode()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, and wait for it."""
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def kill_at_random(
    plan: Plan, fake: Factory, rng: random.Random, kills: int, workers_too: bool, longest_s: float = 0.12
) -> int:
    """Start the run again and again and end it with SIGKILL at random points; how many kills there were.

    workers_too: half of the kills hit a worker, which the run is to survive. Stops early where the study is complete.
    """
    done = 0
    process = start(plan, fake)
    try:
        while done < kills:
            time.sleep(rng.uniform(0, longest_s))
            if process.poll() is not None:
                return done
            victims = children(process.pid) if workers_too and rng.random() < 0.5 else []
            if victims:
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(victims), signal.SIGKILL)
                    done += 1
                continue
            process.kill()
            process.wait()
            done += 1
            if done < kills:
                process = start(plan, fake)
    finally:
        end(process)
    return done
