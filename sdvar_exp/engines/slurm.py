"""An array of Slurm jobs, submitted through submitit: each takes a share of the pending units to a pool of its own.

A job that is preempted, runs into its time limit or loses its node starts again and does what the ledger lacks. An orphan
and its requeued twin may both write a unit: the first row stays and a difference is reported. What is at work is known from
`squeue`, what is done from the ledger; nothing asks `sacct`.
"""

from __future__ import annotations

import io
import pickle
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from sdvar_exp.engines.pool import Pool
from sdvar_exp.engines.squeue import TIMING, job_name, jobs_at_work
from sdvar_exp.engines.worker import Assignment, pack, unpack
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan, Settings
from sdvar_exp.runner.running.interrupt import interruptible
from sdvar_exp.runner.running.progress import phase, say
from sdvar_exp.runner.running.protocol import Backend, Detached
from sdvar_exp.runner.running.sweep import Sweep
from sdvar_exp.runner.running.work import Group, groups
from sdvar_exp.screen import Screen
from sdvar_exp.store import Study
from sdvar_exp.store.state import UnitKey

FIRST_POLL_S, LAST_POLL_S = 0.5, 10.0


def make(settings: Settings) -> Slurm:
    """See `Engine`."""
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise UserError("engine=slurm needs submitit: pip install 'sdvar_exp[slurm]'") from error
    return Slurm()


class Slurm:
    """See `Engine`."""

    def run_units(self, sweep: Sweep, pending: Sequence[Group]) -> None:
        """See `Engine`. Jobs that an earlier command left are waited for before any is submitted."""
        before = dict(sweep.attempts)
        folder, plan = sweep.study.folder, sweep.backend.plan
        work = list(pending)
        for _ in range(sweep.options.retries + 2):
            jobs = jobs_at_work(folder)
            if not jobs:
                work = unfailed(groups(plan, sweep.study.done()), failed_since(sweep, before))
                if not work:
                    break
                number = submit_units(sweep, work)
                say(sweep.console, f"slurm: {min(sweep.options.workers or 1, len(work))} jobs submitted as {number}")
            if sweep.options.detach:
                detach(sweep, submitted=not jobs)
            self._wait(sweep, work)
        missing = {key for group in groups(plan, sweep.study.done()) for task in group.tasks for key in task.unit_keys}
        missing -= sweep.study.done()
        lost = missing - failed_since(sweep, before)
        lines = [f"failed: {len(lost)} units were lost with their jobs; see {folder / 'slurm'}"] if lost else []
        sweep.note_failures(lines, len(missing))

    def run_timing(self, sweep: Sweep) -> int:
        """See `Engine`: one job, when all others are over."""
        self._wait(sweep, [])
        if sweep.backend.pending_timings():
            submit_timing(sweep)
            if sweep.options.detach:
                detach(sweep, submitted=True)
            self._wait(sweep, [])
        return int(sweep.backend.lacks_timings())

    def _wait(self, sweep: Sweep, work: Sequence[Group]) -> None:
        """Until Slurm has no job of the study any more."""
        keys = {key for group in work for task in group.tasks for key in task.unit_keys}
        seen: set[UnitKey] = set()
        pause = FIRST_POLL_S
        try:
            with phase(sweep.console, "decode" if work else "time", len(keys) or 1) as step:
                while jobs_at_work(sweep.study.folder):
                    time.sleep(pause)
                    pause = min(LAST_POLL_S, pause * 1.2)
                    new = (sweep.study.done() & keys) - seen
                    seen |= new
                    step(len(new))
                step(len((sweep.study.done() & keys) - seen))
        except KeyboardInterrupt:
            say(sweep.console, f"its jobs go on without this command; end them: scancel -n {job_name(sweep.study.folder)}")
            raise


def failed_since(sweep: Sweep, before: dict[UnitKey, int]) -> set[UnitKey]:
    """Units with more failures than before, by the ledger."""
    return {key for key, count in sweep.study.failures().items() if count > before.get(key, 0)}


def unfailed(work: Sequence[Group], failed: set[UnitKey]) -> list[Group]:
    """Groups without the tasks that failed already in this run."""
    left = [replace(g, tasks=tuple(t for t in g.tasks if not failed & set(t.unit_keys))) for g in work]
    return [group for group in left if group.tasks]


def detach(sweep: Sweep, submitted: bool) -> None:
    """Leave the jobs alone; after the units the times, so that nobody has to come back for them."""
    folder = sweep.study.folder
    if submitted and sweep.backend.plan.settings.timing.units and not any(job.timing for job in jobs_at_work(folder)):
        numbers = sorted({job.id.partition("_")[0] for job in jobs_at_work(folder)})
        submit_timing(sweep, after=numbers)
    words = [word for word in sweep.backend.plan.argv if not word.startswith("engine.detach")]
    raise Detached(
        f"the jobs go on without this command: squeue -n {job_name(folder)},{job_name(folder)}{TIMING}",
        f"how far they are: sdvar-exp status; collect and continue: {shlex.join(['sdvar-exp', 'run', *words])}",
    )


def shares(work: Sequence[Group], count: int) -> list[list[Group]]:
    """The groups dealt out to `count` jobs, none of them empty."""
    return [list(work[i::count]) for i in range(min(count, len(work)))]


def submit_units(sweep: Sweep, work: Sequence[Group]) -> str:
    """Submit an array; its job number."""
    packed = Packed.of(sweep)
    parts = [Shard(packed, pickle.dumps(share)) for share in shares(work, sweep.options.workers or 1)]
    return submit(sweep, parts, "", {})


def submit_timing(sweep: Sweep, after: Sequence[str] = ()) -> str:
    """Submit one job for the timing phase, alone on its node where it has no GPU of its own; its number."""
    more: dict[str, Any] = {} if sweep.options.gpus else {"exclusive": True}
    if after:
        more["dependency"] = f"afterany:{':'.join(after)}"
    return submit(sweep, [TimingJob(Packed.of(sweep))], TIMING, more)


def submit(sweep: Sweep, calls: Sequence[Any], suffix: str, more: dict[str, Any]) -> str:
    """Submit callables as one array."""
    import submitit

    options = sweep.options
    folder = sweep.study.folder.resolve() / "slurm"
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=options.requeues)
    parameters: dict[str, Any] = {
        "name": job_name(sweep.study.folder) + suffix,
        "timeout_min": options.time_min,
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": options.cpus,
        "slurm_array_parallelism": max(1, len(calls)),
        "slurm_additional_parameters": {"requeue": True, **pairs(options.sbatch), **more},
    }
    if options.partition:
        parameters["slurm_partition"] = options.partition
    if options.gpus:
        parameters["gpus_per_node"] = options.gpus
    if options.memory_gb:
        parameters["mem_gb"] = options.memory_gb
    if options.setup:
        parameters["slurm_setup"] = list(options.setup)
    executor.update_parameters(**parameters)
    try:
        with executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except Exception as error:  # submitit raises its own kinds for what sbatch says
        text = next((line for line in reversed(str(error).splitlines()) if "error" in line), str(error)).strip()
        raise UserError(f"engine=slurm: sbatch refused: {text}") from error
    return str(jobs[0].job_id).partition("_")[0]


def pairs(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` options of sbatch; a key alone is a flag."""
    split = [word.partition("=") for word in words]
    return {key.strip().lstrip("-"): value.strip() if equals else True for key, equals, value in split}


@dataclass(frozen=True)
class Facts:
    """Facts about the models that the pool of a job needs, without loading them."""

    plan: Plan
    device: str
    threads: int


@dataclass(frozen=True)
class Packed:
    """Everything that a job is told, as bytes that need no class of the user's to be read."""

    first: bytes
    second: bytes
    facts: bytes
    fingerprint: bytes

    @classmethod
    def of(cls, sweep: Sweep) -> Packed:
        """For the jobs of a sweep."""
        backend = sweep.backend
        folder = sweep.study.folder.resolve()
        at = Assignment(backend.plan, sweep.factory, folder, sweep.attempts, sweep.options)
        device = backend.device.partition(":")[0]
        first, second = pack(at)
        facts = pickle.dumps(Facts(backend.plan, device, backend.threads))
        return cls(first, second, facts, pickle.dumps(backend.fingerprint))


@dataclass(frozen=True)
class Shard:
    """A job of the array: a share of the groups, decoded by a pool of its own, so that a lost worker costs one unit."""

    packed: Packed
    work: bytes

    def __call__(self) -> int:
        """Decode what the ledger lacks; the number of units that failed."""
        at = unpack(self.packed.first, self.packed.second)
        facts = cast(Facts, pickle.loads(self.packed.facts))
        study = Study(at.folder).attach(pickle.loads(self.packed.fingerprint))
        work: list[Group] = pickle.loads(self.work)
        done = study.done()
        left = [replace(g, tasks=tuple(t for t in g.tasks if not done >= set(t.unit_keys))) for g in work]
        options = replace(at.options, workers=at.options.workers_per_job)
        console = Screen(file=io.StringIO())
        with interruptible() as interrupt:
            sweep = Sweep(study, cast(Backend, facts), at.factory, console, interrupt, options, study.failures())
            Pool(awaited=False).run_units(sweep, [group for group in left if group.tasks])
        study.close()
        return sweep.failed

    def checkpoint(self) -> Any:
        """The job that submitit submits again near the time limit or on preemption: the same, less what is done by then."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class TimingJob:
    """The job that times what is asked for, in its own process."""

    packed: Packed

    def __call__(self) -> int:
        """Time; the number of measurements that failed."""
        at = unpack(self.packed.first, self.packed.second)
        backend = at.factory(at.plan)
        study = Study(at.folder).attach(backend.fingerprint)
        backend.begin(study, study.failures())
        with interruptible() as interrupt:
            failed = backend.run_timing(Screen(), interrupt)
        study.close()
        return failed

    def checkpoint(self) -> Any:
        """See `Shard.checkpoint`."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
