"""Lists the jobs of a study that Slurm still has, from `squeue` alone: accounting (`sacct`) is not everywhere. No submitit."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sdvar_exp.errors import UserError

TIMING = "-timing"


@dataclass(frozen=True)
class SlurmJob:
    """A job that is waiting or at work. id: as Slurm shows it, `12_3` in an array."""

    id: str
    state: str
    timing: bool


def job_name(folder: Path) -> str:
    """The name of all jobs of a study: they are found by it, also where whoever submitted them was killed at once."""
    return f"sdvar-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]}"


def jobs_at_work(folder: Path) -> list[SlurmJob]:
    """Jobs of a study that are not over. `UserError` where Slurm does not answer."""
    name = job_name(folder)
    if shutil.which("squeue") is None:
        raise UserError("engine=slurm: there is no squeue on this machine; use engine=pool or log in where Slurm is")
    command = ["squeue", "--noheader", "--array", f"--name={name},{name}{TIMING}", "--format=%i|%T|%j"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise UserError("engine=slurm: squeue does not answer; try again") from error
    if done.returncode:
        raise UserError(f"engine=slurm: squeue says {(done.stderr.strip().splitlines() or ['nothing'])[-1]}")
    rows = [line.strip().split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    return [SlurmJob(job, state, name.endswith(TIMING)) for job, state, name in rows]


def status_lines(folder: Path) -> list[str]:
    """For `status`: the jobs of a study by state; nothing where there are none, or no Slurm."""
    if not (folder / "slurm").is_dir():
        return []
    try:
        jobs = jobs_at_work(folder)
    except UserError as error:
        return [str(error)]
    counts = Counter((job.state.lower(), job.id.partition("_")[0], job.timing) for job in jobs)
    return [f"slurm {number}{' (timing)' if timing else ''}: {n} {state}" for (state, number, timing), n in counts.items()]
