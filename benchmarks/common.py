"""Shared by all benchmarks: interleaved timing, ratios with intervals, and their place in docs/BENCHMARKS.md.

Nothing here asserts a speed: a benchmark measures and writes down, with machine and versions beside the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "BENCHMARKS.md"
RESULTS = Path(__file__).with_name("results")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Ratio:
    """A ratio of times: exp of the mean log ratio, its 95 % t interval, and how many pairs it is of."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def synchronise(device: torch.device | str = "cpu") -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device | str = "cpu", warmup: int = 1
) -> dict[str, np.ndarray]:
    """Seconds of each run, (repeats,) per name: all in turn, in an order that rotates, after `warmup` rounds.

    By the wall clock, or (`--clock cpu`, of use on a machine that others load too) by the process's own processor time.
    """
    now = CLOCKS[os.environ.get("SDVAR_BENCHMARK_CLOCK", "wall")]
    names = list(runs)
    took: dict[str, list[float]] = {name: [] for name in names}
    for i in range(-warmup, repeats):
        order = names[i % len(names) :] + names[: i % len(names)]
        for name in order:
            synchronise(device)
            start = now()
            runs[name]()
            synchronise(device)
            if i >= 0:
                took[name].append(now() - start)
    return {name: np.array(values) for name, values in took.items()}


def ratio(top: np.ndarray, bottom: np.ndarray) -> Ratio:
    """top ÷ bottom, paired by repeat."""
    from scipy.stats import t

    logs = np.log(top) - np.log(bottom)
    half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)) if len(logs) > 1 else np.inf
    return Ratio(float(np.exp(logs.mean())), float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half)), len(logs))


def machine(device: torch.device | str = "cpu") -> str:
    """CPU or GPU, cores and threads, versions, commit: one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        name = next((line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line), name)
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name() + ", host " + name
    timed = "" if os.environ.get("SDVAR_BENCHMARK_CLOCK", "wall") == "wall" else ", **processor time, not wall clock**"
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), load {os.getloadavg()[0]:.1f}; torch "
        f"{torch.__version__.split('+')[0]}, Python {platform.python_version()}; {date.today()}, commit "
        f"{asked.stdout.strip() or 'unknown'}{timed}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def publish(name: str, title: str, text: str, data: object, write: bool) -> None:
    """Print a section; with `write` also put it into docs/BENCHMARKS.md (replacing its last version) and keep the data."""
    print(f"## {title}\n\n{text}")
    if not write:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head = "# Benchmarks\n\nWritten by `make bench` (`python -m benchmarks`); do not edit.\n"
    page = PAGE.read_text() if PAGE.is_file() else head
    section = f"{begin}\n## {title}\n\n{text}\n{end}"
    if begin in page:
        page = page[: page.index(begin)] + section + page[page.index(end) + len(end) :]
    else:
        page = page.rstrip("\n") + "\n\n" + section + "\n"
    PAGE.write_text(page)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Options that all benchmarks have."""
    out = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    out.add_argument("--repeats", type=int, default=7)
    out.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    out.add_argument("--device", default="cpu")
    out.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time, with --threads 1")
    out.add_argument("--write", action="store_true", help="put the result into docs/BENCHMARKS.md and benchmarks/results")
    return out


def start(args: argparse.Namespace) -> torch.device:
    """Threads, clock and device of the options."""
    os.environ["SDVAR_BENCHMARK_CLOCK"] = args.clock
    if args.threads:
        torch.set_num_threads(args.threads)
    return torch.device(args.device)
