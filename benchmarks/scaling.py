"""Scaling: time and memory against the batch, and the store with many rows.

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
from sdvar_exp.runner.memory import PeakMemory
from sdvar_exp.store.ledger import LedgerReader, encode


@torch.inference_mode()
def batches(sizes: list[int], repeats: int, device: torch.device) -> list[dict[str, float]]:
    """Milliseconds per image and peak memory, sequential and hybrid, by batch."""
    pair, out = load_pair("embedded", device), []
    cells = {"sequential": Cell(choose("strategy", "sequential")), "hybrid": Cell(
        choose("strategy", "hybrid", verify_until=5), mask=choose("mask", "block_causal"),
        acceptance=choose("acceptance", "exact"), gamma=choose("gamma", "fixed", value=2))}
    for size in sizes:
        units = [Unit(i % 10, i // 10) for i in range(size)]
        noise = make_noise(pair, units, list(cells.values()))
        watch = PeakMemory(device)
        runs = {n: lambda c=c, u=units, b=noise: decode(pair, c, u, noise=b, record=False) for n, c in cells.items()}
        took = interleaved(runs, repeats, device)
        peak = watch.bytes()
        out.append({"batch": size, **{n: 1e3 * float(np.median(s)) / size for n, s in took.items()},
                    "peak_mib": (peak or 0) / 2**20})
    return out


def grown_study(folder: Path, rows: int) -> Path:
    """A study of about `rows` units: the records of a small real one, repeated under new seeds."""
    command = [sys.executable, "-m", "sdvar_exp", "run", "study=base", f"results_dir={folder}", "tracking=none", "images=none",
               "timing.units=0", "labels=[0,1]", "seeds=1", "-m", "strategy=sequential,draft_only"]
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


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", nargs="+", type=int, default=[1000, 10_000, 100_000])
    options.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    args = options.parse_args()
    device = start(args)
    found = batches(args.batches, args.repeats, device)
    rows = [[f["batch"], f"{f['sequential']:.1f}", f"{f['hybrid']:.1f}", f"{f['sequential'] / f['hybrid']:.2f}",
             f"{f['peak_mib']:.0f}"] for f in found]
    kept = [store(n) for n in args.rows]
    text = (f"{machine(device)}. Embedded pair, guidance 1.5, n = {args.repeats}, medians.\n\n"
            + table(["B", "sequential ms per image", "hybrid exact γ=2 until=5 ms per image", "speed-up", "peak MiB"], rows)
            + "\n\nSeconds of the verbs on a study of that many units, wall clock, start of Python included:\n\n"
            + table(["units", "collect", "table", "figures", "report"],
                    [[f"{k['rows']:,}", *[f"{k[v]:.1f}" for v in ("collect", "table", "figures", "report")]] for k in kept])
            + "\n\n`python -m benchmarks.scaling --write`")
    publish("scaling", "Scaling", text, {"batches": found, "store": kept}, args.write)


if __name__ == "__main__":
    main()
