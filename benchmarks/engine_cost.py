"""What the engine costs beside decoding, and what it saves against one process per configuration.

    python -m benchmarks.engine_cost --threads 1 --write

Cost: a sweep of 1,000 units of the embedded pair without timing; scheduling, ledger and progress as a share of the time in
`decode` and the VAE. Throughput: the README's sweep as one command, tables and figures included, against the naive way: a
process per configuration that loads the pair, decodes baseline and cell for each unit, compares and writes a csv.
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
from rich.console import Console

from benchmarks.common import REPOSITORY, interleaved, machine, parser, publish, ratio, start, table

SWEEP = ["strategy=sequential,test3,parallel_v1,dynamic_gamma", "mask=block_causal,block_diagonal",
         "cfg_schedule=linear,constant", "labels=[0,3,8]", "seeds=4", "timing.units=0", "tracking=none"]
NAIVE = """
import csv, pickle, sys
import torch
from sdvar_exp.decoding.api import decode, decode_images, make_noise
from sdvar_exp.metrics import fidelity
from sdvar_exp.models.pair import load_pair
plan, index, threads = pickle.load(sys.stdin.buffer)
torch.set_num_threads(threads)
cell, pair = plan.cells[index].cell, load_pair(device="cpu")
from sdvar_exp.runner.work import plan_units
rows = []
for unit in plan_units(plan):
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
    from sdvar_exp.runner import baselines, finish, models, units
    from sdvar_exp.runner.run import run_study

    decoding, tasks, phase = Stopwatch(), Stopwatch(), Stopwatch()
    kept = [(m, n, getattr(m, n)) for m in (units, baselines) for n in ("decode", "decode_images")]
    kept += [(models.ModelBackend, n, getattr(models.ModelBackend, n)) for n in ("evaluate", "share")]
    kept += [(InProcess, "run_units", InProcess.run_units), (finish, "write_figures", finish.write_figures)]
    try:
        for place, name, function in kept[:4]:
            setattr(place, name, decoding.around(function))
        for place, name, function in kept[4:6]:
            setattr(place, name, tasks.around(function))
        InProcess.run_units = phase.around(InProcess.run_units)  # type: ignore[method-assign]
        finish.write_figures = lambda *_, **__: []  # type: ignore[assignment]
        plan = compose(["strategy=sequential,parallel_v1", "labels=all", f"seeds={seeds}", "timing.units=0", "tracking=none",
                        "images=none", f"threads={threads}", f"results_dir={folder}"])
        code = run_study(plan, Console(file=io.StringIO()))
    finally:
        for place, name, function in kept:
            setattr(place, name, function)
    assert code == 0
    return {"units": 20.0 * seeds, "decode_s": decoding.seconds, "tasks_s": tasks.seconds, "phase_s": phase.seconds}


def one_command(threads: int) -> None:
    """The sweep as a user types it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "scripts/run.py", *SWEEP, f"threads={threads}", f"results_dir={folder}"]
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)


def one_by_one(threads: int) -> None:
    """One process per configuration, the baseline decoded again in each."""
    import pickle

    from sdvar_exp.config import compose

    plan = compose(SWEEP)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(len(plan.cells)):
            subprocess.run([sys.executable, "-c", NAIVE, f"{folder}/{index}.csv"], cwd=REPOSITORY, check=True,
                           input=pickle.dumps((plan, index, threads)), env={**os.environ, "PYTHONPATH": str(REPOSITORY)})


def main() -> None:
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("--seeds", type=int, default=50, help="of ten labels and two cells: 50 give 1,000 units")
    args = options.parse_args()
    start(args)
    threads = args.threads or len(os.sched_getaffinity(0))
    runs = []
    for _ in range(max(2, args.repeats // 3)):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(share(Path(folder), threads, args.seeds))
    decode, tasks, phase = (np.array([run[k] for run in runs]) for k in ("decode_s", "tasks_s", "phase_s"))
    cost, whole = ratio(phase - tasks, decode), ratio(phase, decode)
    naive = interleaved({"naive": lambda: one_by_one(threads), "study": lambda: one_command(threads)}, args.repeats, warmup=0)
    faster = ratio(naive["naive"], naive["study"])
    rows = [
        (f"scheduling, ledger, progress ÷ decoding, {runs[0]['units']:.0f} units", f"{100 * cost.value:.2f} % "
         f"[{100 * cost.low:.2f}, {100 * cost.high:.2f}]", cost.n),
        ("units phase ÷ decoding (noise, metrics, ledger, all)", str(whole), whole.n),
        ("naive ÷ one command, the README's sweep", str(faster), faster.n),
    ]
    text = f"{machine()}\n\n{table(('ratio', 'mean and 95 % interval', 'n'), rows)}"
    data = {"runs": runs, "seconds": {k: v.tolist() for k, v in naive.items()}, "machine": machine()}
    publish("engine_cost", "Cost of the engine", text, json.loads(json.dumps(data)), args.write)


if __name__ == "__main__":
    main()
