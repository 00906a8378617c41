"""Measures the engine's cost beside decoding, and its saving against one process per configuration.

    python -m benchmarks.engine_cost --threads 1 --write

Cost: a sweep of 1,000 units of the embedded pair without timing; scheduling, ledger and progress as a share of the time in
`decode` and the VAE. Throughput: the README's sweep as one command, in-process and with a pool of two workers, against two
naive ways, both a process per configuration that loads the pair and decodes baseline and cell anew for each unit:
- same work: the process also writes what the one command writes for its configuration, images, tables and figures included
  (it is the same program, called with one configuration and an empty folder);
- bare: it compares the images and writes one csv; no images, no intervals, no figures.
CPU seconds of all processes are measured beside wall-clock ones: they depend less on what else the machine does.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import REPOSITORY, interleaved, machine, parser, publish, ratio, start, table
from sdvar_exp.screen import Screen

SWEEP = [
    "strategy=sequential,test3,parallel_v1,dynamic_gamma",
    "mask=block_causal,block_diagonal",
    "cfg_schedule=linear,constant",
    "labels=[0,3,8]",
    "seeds=4",
    "timing.units=0",
    "tracking=none",
]
NAIVE = """
import csv, pickle, sys
import torch
from sdvar_exp.decoding.api import decode, decode_images, make_noise
from sdvar_exp.metrics.quantities.fidelity import fidelity
from sdvar_exp.models.pair import load_pair
plan, index, threads = pickle.load(sys.stdin.buffer)
torch.set_num_threads(threads)
cell, pair = plan.cells[index].cell, load_pair(device="cpu")
rows = []
for unit in plan.units:
    noise = make_noise(pair, [unit], [cell])
    a, b = (decode(pair, c, [unit], noise=noise) for c in (cell.baseline(), cell))
    x, y = (decode_images(pair, d.f_hat)[0].numpy() for d in (a, b))
    tokens = [torch.cat(d.tokens, dim=1)[0].numpy() for d in (a, b)]
    rows.append({"label": unit.label, "seed": unit.seed,
                 **fidelity(tokens[1], y, b.f_hat[0].numpy(), tokens[0], x, a.f_hat[0].numpy(), pair.pyramid)})
with open(sys.argv[1], "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
"""


class Stopwatch:
    """Adds up the seconds inside calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begin

        return call


def share(folder: Path, threads: int, seeds: int) -> dict[str, float]:
    """Seconds of one sweep of 10 labels × seeds × 2 cells: in decoding, in whole tasks, in the units phase."""
    from sdvar_exp.config import compose
    from sdvar_exp.engines.inprocess import InProcess
    from sdvar_exp.runner.measuring import backend, baselines, pictures, units
    from sdvar_exp.runner.running import finish
    from sdvar_exp.runner.running.run import run_study

    decoding, tasks, phase = Stopwatch(), Stopwatch(), Stopwatch()
    kept: list[tuple[Any, str, Any]] = [(m, "decode", m.decode) for m in (units, baselines)]
    kept += [(m, "decode_images", m.decode_images) for m in (pictures, baselines)]
    kept += [(backend.ModelBackend, n, getattr(backend.ModelBackend, n)) for n in ("evaluate", "share")]
    kept += [(InProcess, "run_units", InProcess.run_units), (finish, "write_figures", finish.write_figures)]
    try:
        for place, name, function in kept[:4]:
            setattr(place, name, decoding.around(function))
        for place, name, function in kept[4:6]:
            setattr(place, name, tasks.around(function))
        InProcess.run_units = phase.around(InProcess.run_units)  # type: ignore[method-assign]
        finish.write_figures = lambda *_, **__: []  # type: ignore[assignment]
        plan = compose(
            [
                "strategy=sequential,parallel_v1",
                "labels=all",
                f"seeds={seeds}",
                "timing.units=0",
                "tracking=none",
                "images=none",
                f"threads={threads}",
                f"results_dir={folder}",
            ]
        )
        code = run_study(plan, Screen(file=io.StringIO()))
    finally:
        for place, name, function in kept:
            setattr(place, name, function)
    assert code == 0
    return {"units": 20.0 * seeds, "decode_s": decoding.seconds, "tasks_s": tasks.seconds, "phase_s": phase.seconds}


def command(words: list[str], threads: int) -> None:
    """A command line as a user types it, in an empty results folder."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "scripts/run.py", *words, f"threads={threads}", f"results_dir={folder}"]
        subprocess.run(line, cwd=REPOSITORY, check=True, capture_output=True)


def one_command(threads: int) -> None:
    """The sweep in one process."""
    command(SWEEP, threads)


def pool(threads: int) -> None:
    """The sweep in a pool of two workers, which share the threads."""
    command([*SWEEP, "engine=pool", "engine.workers=2"], max(1, threads // 2))


def same_work(threads: int) -> None:
    """One process per configuration, each with everything that the one command makes of it."""
    from sdvar_exp.config import compose

    for planned in compose(SWEEP).cells:
        command([*planned.overrides, *SWEEP[3:]], threads)


def bare(threads: int) -> None:
    """One process per configuration, the baseline decoded again in each, nothing but a csv written."""
    import pickle

    from sdvar_exp.config import compose

    plan = compose(SWEEP)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(len(plan.cells)):
            subprocess.run(
                [sys.executable, "-c", NAIVE, f"{folder}/{index}.csv"],
                cwd=REPOSITORY,
                check=True,
                input=pickle.dumps((plan, index, threads)),
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )


WAYS = {"same work": same_work, "bare": bare, "one command": one_command, "pool of 2": pool}


def throughput(threads: int, repeats: int) -> dict[str, dict[str, np.ndarray]]:
    """Wall-clock and CPU seconds of every way, in turn."""
    spent: dict[str, list[float]] = {name: [] for name in WAYS}

    def measured(name: str) -> Callable[[], None]:
        def run() -> None:
            before = os.times()
            WAYS[name](threads)
            after = os.times()
            spent[name].append(after.children_user + after.children_system - before.children_user - before.children_system)
            took = after.elapsed - before.elapsed
            print(f"{name}: {took:.1f} s, {spent[name][-1]:.1f} s of CPU", file=sys.stderr, flush=True)

        return run

    wall = interleaved({name: measured(name) for name in WAYS}, repeats, warmup=0)
    return {"wall": wall, "cpu": {name: np.array(values) for name, values in spent.items()}}


def cost(threads: int, seeds: int, repeats: int) -> tuple[list[tuple[object, ...]], list[dict[str, float]]]:
    """Rows of the table, and the seconds of every run."""
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(share(Path(folder), threads, seeds))
    decode, tasks, phase = (np.array([run[k] for run in runs]) for k in ("decode_s", "tasks_s", "phase_s"))
    part, whole = ratio(phase - tasks, decode), ratio(phase, decode)
    return [
        (
            f"scheduling, ledger, progress ÷ decoding, {runs[0]['units']:.0f} units",
            f"{100 * part.value:.2f} % [{100 * part.low:.2f}, {100 * part.high:.2f}]",
            part.n,
        ),
        ("units phase ÷ decoding (noise, metrics, ledger, all)", str(whole), whole.n),
    ], runs


def main() -> None:
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("--seeds", type=int, default=50, help="of ten labels and two cells: 50 give 1,000 units")
    options.add_argument("--part", choices=("cost", "throughput", "both"), default="both")
    args = options.parse_args()
    start(args)
    threads = args.threads or len(os.sched_getaffinity(0))
    if args.part != "throughput":
        rows, runs = cost(threads, args.seeds, max(2, args.repeats // 3))
        show("engine_cost", "Cost of the engine", rows, {"runs": runs}, args.write)
    if args.part != "cost":
        found = throughput(threads, args.repeats)
        rows = [
            (f"{naive} ÷ {way}, {clock} seconds", str(r), r.n)
            for clock, seconds in found.items()
            for way in ("one command", "pool of 2")
            for naive in ("same work", "bare")
            for r in [ratio(seconds[naive], seconds[way])]
        ]
        rows += [
            (f"{name}: seconds of {clock}", f"{values.mean():.1f}", len(values))
            for clock, seconds in found.items()
            for name, values in seconds.items()
        ]
        data = {clock: {name: values.tolist() for name, values in seconds.items()} for clock, seconds in found.items()}
        show("engine_throughput", "One command against one process per configuration", rows, data, args.write)


def show(name: str, title: str, rows: list[tuple[object, ...]], data: dict[str, Any], write: bool) -> None:
    """Print, and with `write` keep, one section."""
    text = f"{machine()}\n\n{table(('what', 'mean and 95 % interval', 'n'), rows)}"
    publish(name, title, text, json.loads(json.dumps({**data, "machine": machine()})), write)


if __name__ == "__main__":
    main()
