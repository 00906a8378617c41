"""One task on real models: decode it, compare it with the baseline, write images first; the caller writes the rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdvar_exp.cell import Cell, ModelSpec, Unit
from sdvar_exp.decoding.api import Decoded, NoiseBook, decode
from sdvar_exp.guest import kept_random_state
from sdvar_exp.runner.measuring.baselines import Baselines
from sdvar_exp.runner.measuring.features import Extractor, extractor_for
from sdvar_exp.runner.measuring.pictures import Pixels, amplified_difference, stage_picture
from sdvar_exp.runner.measuring.prepare import Prepared
from sdvar_exp.runner.measuring.results import Body, Result, compared, f_hat_of, result_of, to_numpy, unit_body
from sdvar_exp.runner.running.failures import PEAK, BaselineError, NotFiniteError, out_of_memory
from sdvar_exp.runner.running.work import Task
from sdvar_exp.store import StorageError, Study
from sdvar_exp.store.state import UnitKey


@dataclass(frozen=True)
class Job:
    """State of the phases. attempts: failures of each unit so far. pictured: units whose images are kept. staged: those of
    them that get a stage-by-stage picture.

    extractors: what classifies the images of a model, None where nothing does.
    """

    study: Study
    prepared: Prepared
    baselines: Baselines
    attempts: Counter[UnitKey]
    pictured: frozenset[Unit]
    staged: frozenset[Unit] = frozenset()
    extractors: Mapping[ModelSpec, Extractor | None] = field(default_factory=dict)
    pixels: Pixels = field(default_factory=Pixels)


def start_job(study: Study, prepared: Prepared, attempts: Counter[UnitKey]) -> Job:
    """A job of a study that is open."""
    images, units = prepared.plan.settings.images, prepared.plan.units
    kept = units if images == "all" else units[: 0 if images == "none" else int(images)]
    staged = frozenset(kept[: prepared.plan.settings.stage_images])
    with kept_random_state():
        extractors = {spec: extractor_for(spec, pair) for spec, pair in prepared.pairs.items()}
    return Job(study, prepared, Baselines(study, prepared), attempts, frozenset(kept), staged, extractors)


def evaluate(job: Job, task: Task, noise: NoiseBook, noise_ms: float) -> list[Body]:
    """One record per unit of the task; images are written. An error of memory carries the peak until then."""
    peak = PeakMemory(job.prepared.device)
    try:
        return _evaluate(job, task, noise, noise_ms)
    except Exception as error:
        if out_of_memory(error):
            setattr(error, PEAK, peak.bytes())
        raise


def _evaluate(job: Job, task: Task, noise: NoiseBook, noise_ms: float) -> list[Body]:
    cell, pair = task.cell, job.prepared.pairs[task.cell.model]
    against = job.prepared.plan.compared_with(cell)
    own = cell.id == against[-1].id
    peak = PeakMemory(job.prepared.device)
    made = [baselines_of(job, task, noise, other) for other in against]
    hit = all(cached for _, cached in made)
    references, baselines = made[0][0], made[-1][0]
    decoded = None
    if not own:
        peak = PeakMemory(job.prepared.device)
        decoded = decode(pair, cell, task.units, noise=noise)
    memory = None if own and hit else peak.bytes()
    circumstances: dict[str, Any] = {"noise_ms": noise_ms, "cache_hit": hit, "peak_memory_bytes": memory}
    exact = job.prepared.plan.settings.dtype == "float64"
    bodies = []
    for i, (unit, reference, baseline) in enumerate(zip(task.units, references, baselines, strict=True)):
        result = baseline if decoded is None else result_of(decoded, i, image_of(job, task, decoded, i, baseline))
        check_finite(result)
        write_images(job, task, unit, result, reference)
        if unit in job.staged:
            write_stages(job, task, unit, result, proposed_of(decoded, i))
        attempt = job.attempts[task.planned.id, unit.label, unit.seed] + 1
        record, seen = look(job, task, result, reference)
        sample, stages = compared(unit, result, (reference, baseline)[: len(against)], pair.pyramid, exact, seen)
        bodies.append({**unit_body(task.planned.id, unit, sample, stages, attempt=attempt, **circumstances), **record})
    return bodies


def look(job: Job, task: Task, result: Result, reference: Result) -> tuple[dict[str, Any], dict[str, Any]]:
    """Features of the model's classifier, if it has one, of the image and of the reference's: for the record, for metrics."""
    extractor = job.extractors.get(task.cell.model)
    if extractor is None:
        return {}, {}
    own, base = extractor.see(result.image), extractor.see(reference.image)
    record = {
        "classifier": extractor.digest,
        "features": own.features,
        "predicted": own.predicted,
        "baseline_features": base.features,
        "baseline_predicted": base.predicted,
    }
    evidence = {
        "features_a": own.values,
        "features_b": base.values,
        "predicted_a": own.predicted,
        "predicted_b": base.predicted,
    }
    return {"seen": record}, evidence


def check_finite(result: Result) -> None:
    """Raise `NotFiniteError` where a model gave NaN, which sampling turns into a token like any other."""
    parts = {"f̂": result.f_hat, "the image": result.image, "the target's logits": result.margins}
    for column in ("one_minus_tv", "kl", "entropy"):
        parts[column] = np.array([row[column] for row in result.stages if row.get(column) is not None], np.float64)
    found = [name for name, values in parts.items() if np.isnan(values).any()]
    if found:
        raise NotFiniteError(f"NaN in {', '.join(found)}: check the checkpoint, or use a wider dtype")


def baselines_of(job: Job, task: Task, noise: NoiseBook, cell: Cell) -> tuple[list[Result], bool]:
    """The decode of each unit by a reference or baseline, and whether all came from the cache."""
    alone = noise if len(task.units) == 1 else None
    try:
        found = [job.baselines.get(cell, unit, alone) for unit in task.units]
    except StorageError:
        raise
    except Exception as error:
        if task.cell.id == cell.id:
            raise
        raise BaselineError(f"the baseline of this unit failed ({type(error).__name__}: {error})") from error
    return [result for result, _ in found], all(hit for _, hit in found)


def image_of(job: Job, task: Task, decoded: Decoded, i: int, baseline: Result) -> np.ndarray:
    """Image i, (3, H, W); a f̂ that the baseline or another cell has is not decoded again."""
    if np.array_equal(f_hat_of(decoded, i), baseline.f_hat):
        return baseline.image
    return job.pixels.of(task.cell.model, job.prepared.pairs[task.cell.model], decoded.f_hat[i : i + 1])


def write_images(job: Job, task: Task, unit: Unit, result: Result, reference: Result) -> None:
    """Sample and amplified difference as PNG, where they are asked for; the reference's picture is its own cell's.

    An image that equals the reference's is the same file.
    """
    if unit not in job.pictured:
        return
    key = (task.planned.id, unit.label, unit.seed)
    equal = result is not reference and np.array_equal(result.image, reference.image)
    if not (equal and job.study.link_image(*key, of=job.prepared.plan.compared_with(task.cell)[0].id)):
        job.study.write_image(*key, result.image)
    if result is not reference:
        job.study.write_image(*key, amplified_difference(result.image, reference.image), "_diff")


def proposed_of(decoded: Decoded | None, i: int) -> list[np.ndarray | None]:
    """The draft's tokens of every judged stage of image i; empty for a baseline, which judges none."""
    return [] if decoded is None else [None if t is None else to_numpy(t[i]) for t in decoded.proposed]


def write_stages(job: Job, task: Task, unit: Unit, result: Result, proposed: list[np.ndarray | None]) -> None:
    """The decode stage by stage as one PNG."""
    pair = job.prepared.pairs[task.cell.model]
    picture = stage_picture(pair, result, proposed, partial(job.pixels.of, task.cell.model, pair))
    job.study.write_image(task.cell.id, unit.label, unit.seed, picture, "_stages")


RESET_PEAK = "5"  # proc(5): resets the peak resident set size


class PeakMemory:
    """Starts to watch when made; `bytes()` is the peak since then, models included, or None where it is not known."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device if device.type == "cuda" else None
        self.watched = False
        if self.cuda is not None:
            torch.cuda.reset_peak_memory_stats(self.cuda)
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text(RESET_PEAK)
                self.watched = True

    def bytes(self) -> int | None:
        """Peak in bytes."""
        if self.cuda is not None:
            return int(torch.cuda.max_memory_allocated(self.cuda))
        if not self.watched:
            return None
        with suppress(OSError):
            found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
            return int(found.group(1)) * 1024 if found else None
        return None
