"""Scaling: time and memory against the batch, the number of cells, and the number of rows in the store.

python -m benchmarks.scaling --write
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import interleaved, machine, parser, publish, start, table
from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import decode, make_noise
from sdvar_exp.models.pair import load_pair
from sdvar_exp.registry import choose
from sdvar_exp.runner.measuring.units import PeakMemory
from sdvar_exp.store.ledger import LedgerReader, encode


@torch.inference_mode()
def batches(sizes: list[int], repeats: int, device: torch.device) -> list[dict[str, float]]:
    """Milliseconds per image and peak memory, sequential and hybrid, by batch."""
    pair, out = load_pair("embedded", device), []
    cells = {
        "sequential": Cell(choose("strategy", "sequential")),
        "hybrid": Cell(
            choose("strategy", "hybrid", verify_until=5),
            mask=choose("mask", "block_causal"),
            acceptance=choose("acceptance", "exact"),
            gamma=choose("gamma", "fixed", value=2),
        ),
    }
    for size in sizes:
        units = [Unit(i % 10, i // 10) for i in range(size)]
        noise = make_noise(pair, units, list(cells.values()))
        watch = PeakMemory(device)
        runs = {n: lambda c=c, u=units, b=noise: decode(pair, c, u, noise=b, record=False) for n, c in cells.items()}
        took = interleaved(runs, repeats, device)
        peak = watch.bytes()
        out.append(
            {"batch": size, **{n: 1e3 * float(np.median(s)) / size for n, s in took.items()}, "peak_mib": (peak or 0) / 2**20}
        )
    return out


def grown_study(folder: Path, rows: int) -> Path:
    """A study of about `rows` units: the records of a small real one, repeated under new seeds."""
    command = [
        sys.executable,
        "-m",
        "sdvar_exp",
        "run",
        "study=base",
        f"results_dir={folder}",
        "tracking=none",
        "images=none",
        "timing.units=0",
        "labels=[0,1]",
        "seeds=1",
        "-m",
        "strategy=sequential,draft_only",
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    study = folder / "base"
    bodies = [b for b in LedgerReader(study / "ledger").read() if b["type"] == "unit"]
    with (study / "ledger" / "copies-1-999999.jsonl").open("wb") as file:
        for seed in range(1, rows // len(bodies)):
            file.writelines(encode({**body, "seed": seed}) for body in bodies)
    return study


def store(rows: int) -> dict[str, float]:
    """Seconds of the verbs that read a study of `rows` units, each in a process of its own."""
    out: dict[str, float] = {"rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        study = grown_study(Path(folder), rows)
        for verb in ("collect", "table", "figures", "report"):
            start_s = time.perf_counter()
            words = [sys.executable, "-m", "sdvar_exp", verb, str(study)]
            done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
            out[verb] = time.perf_counter() - start_s if done.returncode == 0 else float("nan")
            if done.returncode:
                print(f"{verb}: {done.stderr.strip().splitlines()[-1:]}")
    return out


CHILD = """
import re, sys
from sdvar_exp.cli import main
code = main(sys.argv[1:])
found = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())
sys.stderr.write("peak " + found.group(1))
sys.exit(code)
"""  # the kernel's own count of a child begins with what its parent had, so it is asked from inside


def spent(words: list[str], folder: Path) -> tuple[float, float]:
    """Wall-clock seconds and peak MiB (Linux) of a command in a process of its own."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: sdvar-exp {words[0]}: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - begin, int(done.stderr.rsplit("peak ", 1)[1]) / 1024


def sweep_of(cells: int) -> list[str]:
    """The words of a sweep of so many cells, ten values of γ by thresholds of `match_rate`."""
    rates = ",".join(f"{(i + 1) / (cells // 10 + 1):.4f}" for i in range(cells // 10))
    return [
        "-m",
        "strategy=parallel_v1",
        "acceptance=match_rate",
        f"acceptance.tau={rates}",
        "gamma.value=" + ",".join(map(str, range(1, 11))),
        "labels=[0]",
        "seeds=1",
        "timing.units=0",
        "tracking=none",
        "images=none",
        "threads=1",
    ]


def many_cells(cells: int, run: bool) -> dict[str, float]:
    """Seconds and peak memory of `plan` and, if wanted, of `run` and `table` for a sweep of one image a cell."""
    out: dict[str, float] = {"cells": cells}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [*sweep_of(cells), f"results_dir={folder}", "study=wide"]
        out["plan"], out["plan_mib"] = spent(["plan", *words], folder)
        if run:
            out["run"], out["run_mib"] = spent(["run", *words], folder)
            out["table"], out["table_mib"] = spent(["table", str(folder / "wide")], folder)
    return out


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", nargs="+", type=int, default=[1000, 10_000, 100_000])
    options.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    options.add_argument("--cells", nargs="+", type=int, default=[10, 100, 1000], help="multiples of ten")
    options.add_argument("--run-cells", type=int, default=100, help="sweeps of up to so many cells are run, not only planned")
    args = options.parse_args()
    device = start(args)
    found = batches(args.batches, args.repeats, device)
    kept = [store(n) for n in args.rows]
    wide = [many_cells(n, n <= args.run_cells) for n in args.cells]
    data = {"batches": found, "store": kept, "cells": wide}
    publish("scaling", "Scaling", page(data, machine(device), args.repeats), data, args.write)


def page(data: dict[str, list[dict[str, float]]], where: str, repeats: int) -> str:
    """The section's text."""
    rows = [
        [
            f["batch"],
            f"{f['sequential']:.1f}",
            f"{f['hybrid']:.1f}",
            f"{f['sequential'] / f['hybrid']:.2f}",
            f"{f['peak_mib']:.0f}",
        ]
        for f in data["batches"]
    ]

    def both(found: dict[str, float], verb: str) -> str:
        return f"{found[verb]:.1f} s, {found[f'{verb}_mib']:.0f} MiB" if verb in found else "–"

    verbs, steps = ("collect", "table", "figures", "report"), ("plan", "run", "table")
    return (
        f"{where}. Embedded pair, guidance 1.5, n = {repeats}, medians.\n\n"
        + table(["B", "sequential ms per image", "hybrid exact γ=2 until=5 ms per image", "speed-up", "peak MiB"], rows)
        + "\n\nSeconds of the verbs on a study of that many units, wall clock, start of Python included:\n\n"
        + table(["units", *verbs], [[f"{k['rows']:,}", *[f"{k[v]:.1f}" for v in verbs]] for k in data["store"]])
        + "\n\nA sweep of so many cells, one image each, one thread, and the peak memory of each command:\n\n"
        + table(["cells", *steps], [[f"{w['cells']:,}", *[both(w, v) for v in steps]] for w in data["cells"]])
        + "\n\n`python -m benchmarks.scaling --write`"
    )


if __name__ == "__main__":
    main()
