"""All benchmarks in turn, each in a process of its own; results go to docs/BENCHMARKS.md.

    python -m benchmarks --official FOLDER           (about twelve minutes on two quiet cores)
    python -m benchmarks --only speculation merged

What is left out is said. A benchmark that fails does not stop the others; the exit code tells.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import CLOCKS, REPOSITORY

SHORT: dict[str, list[str]] = {
    "speculation": ["--repeats", "3", "--settings", "hybrid", "collaborative", "draft_only", "test3", "γ=2"],
    "sequential": ["--repeats", "10"],
    "merged": ["--repeats", "5"],
    "sampling": ["--repeats", "5"],
    "precision": [],
    "arithmetic": ["--repeats", "5"],
    "memory": [],
    "scaling": ["--repeats", "2", "--rows", "1000", "100000"],
}
LONG = {"engine_cost": ["--repeats", "6"]}


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--official", type=Path, help="checkout of FoundationVision/VAR; without it that column is empty")
    options.add_argument("--only", nargs="+", choices=(*SHORT, *LONG), help="these; default: all but engine_cost")
    options.add_argument("--threads", type=int, default=0)
    options.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    options.add_argument("--dry", action="store_true", help="print the commands and stop")
    args = options.parse_args()
    failed = []
    for name in args.only or SHORT:
        command = [sys.executable, "-m", f"benchmarks.{name}", "--write", "--threads", str(args.threads), "--clock", args.clock]
        command += {**SHORT, **LONG}[name]
        if name == "sequential" and args.official:
            command += ["--official", str(args.official)]
        print("$ python " + " ".join(command[1:]), flush=True)
        if args.dry:
            continue
        begin = time.perf_counter()
        code = subprocess.run(command, cwd=REPOSITORY).returncode
        print(f"{name}: {time.perf_counter() - begin:.0f} s" + (f", failed with {code}" if code else ""), flush=True)
        failed += [name] if code else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
