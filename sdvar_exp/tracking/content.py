"""Content of the W&B run of a cell, and of that of a whole study, as plain data: no wandb here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.metrics.quantities import OWN, REFERENCE_ROWS, Metric, metrics, tabled
from sdvar_exp.metrics.statistics import mean_interval, ratio_interval
from sdvar_exp.store.columns import ALGORITHM, CIRCUMSTANCES, FIDELITY, IDENTITY, ROUNDS, TIMED
from sdvar_exp.store.images import image_name
from sdvar_exp.store.ledger import canonical
from sdvar_exp.store.rounds import commits_per_round, rate_by_stage
from sdvar_exp.store.tables import Tables
from sdvar_exp.store.timing import UNSTEADY, spread

# Circumstances that are measurements; the rest (host, pid, time stamps) is about the process.
LOGGED_CIRCUMSTANCES = ("noise_ms", "peak_memory_bytes")

WHOLE = "study"
"""Stands in for a cell's id where the run is that of the whole study; no hash is called like that."""

Unit = tuple[int, int]


@dataclass(frozen=True)
class Picture:
    """A row of the image table: paths of sample, baseline and difference (None where not kept), and a few metrics."""

    label: int
    seed: int
    sample: Path
    baseline: Path | None
    diff: Path | None
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Content:
    """A W&B run: rows are (unit, metrics) sorted by label and seed, a metric that is null is left out.

    job_type: `baseline`, `cell`, or `study` for the one run of the study as a whole. tags: to filter by, the cell's id among
    them, which is the same in every study. table: rows of the study's table, by column. files: its figures and its page.
    """

    cell: str
    run_id: str
    name: str
    group: str
    config: Mapping[str, Any]
    rows: tuple[tuple[Unit, Mapping[str, Any]], ...]
    summary: Mapping[str, Any]
    pictures: tuple[Picture, ...]
    job_type: str = "cell"
    tags: tuple[str, ...] = ()
    table: tuple[Mapping[str, Any], ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over everything that would be sent; pictures count by name."""
        pictures = [[p.label, p.seed, p.baseline is not None, p.diff is not None] for p in self.pictures]
        everything: list[Any] = [self.name, self.config, self.rows, self.summary, pictures]
        if self.job_type == "study":
            everything += [self.table, [[f.name, hashlib.sha256(f.read_bytes()).hexdigest()] for f in self.files]]
        return hashlib.sha256(canonical(everything).encode()).hexdigest()[:16]


def picture_metrics() -> list[str]:
    """Metrics beside each image: those of tables that `samples` has a column for."""
    return [m.name for m in tabled() if m.measured or m.needs == (m.name,)]


def run_id(study: str, cell: str) -> str:
    """Id of a cell's run, the same for every push of the study."""
    return hashlib.sha256(f"{study}\0{cell}".encode()).hexdigest()[:16]


def row_hash(metrics: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits over what is logged of a unit."""
    return hashlib.sha256(canonical(metrics).encode()).hexdigest()[:8]


def contents(folder: Path, tables: Tables) -> list[Content]:
    """One content per cell that has rows, in plan order."""
    by_cell = dict(iter(tables.samples.groupby("cell", sort=False)))
    stages = dict(iter(tables.stages.groupby("cell", sort=False)))
    timings = dict(iter(tables.timings.groupby("cell", sort=False))) if len(tables.timings) else {}
    none, untimed = tables.stages.iloc[:0], tables.timings.iloc[:0]
    runs = [run for run in tables.runs.to_dict("records") if run["cell"] in by_cell]
    return [
        _content(folder, run, by_cell[run["cell"]], stages.get(run["cell"], none), timings.get(run["cell"], untimed))
        for run in runs
    ]


def study_content(folder: Path, cells: Sequence[Content]) -> Content | None:
    """The run of a study as a whole: its table, figures and page; None while it has neither figures nor page."""
    figures = folder / "figures"
    files = (*sorted(figures.glob("*.png")), *(p for p in [folder / "report.html"] if p.is_file()))
    if not files or not cells:
        return None
    study = cells[0].group
    facts = ("code", "checkpoints", "packages", "device_kind", "dtype", "threads")
    table = tuple({"cell": c.cell, "name": c.name, "run": c.run_id, **c.summary} for c in cells)
    counts = {key: sum(c.summary[key] for c in cells) for key in ("units", "planned", "failures")}
    return Content(
        cell=WHOLE,
        run_id=run_id(study, WHOLE),
        name=study,
        group=study,
        config={"study": study, **{k: cells[0].config[k] for k in facts if k in cells[0].config}},
        rows=(),
        summary={"cells": len(cells), **counts},
        pictures=(),
        job_type="study",
        tags=("study",),
        table=table,
        files=files,
    )


def _tags(run: Mapping[str, Any]) -> tuple[str, ...]:
    """Strategy, promise and id of a cell; W&B takes tags of 1 to 64 characters."""
    lossless = "lossy" if run["lossless"] == "no" else f"lossless in {run['lossless']}"
    strategy = json.loads(run["config"]).get("strategy", {}).get("name", "")
    return tuple(tag[:64] for tag in (strategy, lossless, f"cell {run['cell']}") if tag)


def _content(
    folder: Path, run: Mapping[str, Any], samples: pd.DataFrame, stages: pd.DataFrame, timings: pd.DataFrame
) -> Content:
    metrics = _metrics(samples)
    units = list(zip(samples["label"].astype(int), samples["seed"].astype(int), strict=True))
    rows = tuple((unit, {"label": unit[0], "seed": unit[1], **row}) for unit, row in zip(units, metrics, strict=True))
    pictures = [_picture(folder, run, unit, row) for unit, row in rows]
    return Content(
        cell=run["cell"],
        run_id=run_id(run["study"], run["cell"]),
        name=run["name"],
        group=run["study"],
        config=_config(run),
        rows=rows,
        summary=_summary(samples, run) | _acceptance(stages) | _steadiness(timings),
        pictures=tuple(p for p in pictures if p is not None),
        job_type="baseline" if run["cell"] == run["baseline"] else "cell",
        tags=_tags(run),
    )


def _metrics(samples: pd.DataFrame) -> list[dict[str, Any]]:
    """Numbers of every row; booleans are 0 and 1, nulls are left out."""
    numbers = samples[[c for c in samples if _is_metric(samples, c)]]
    records = numbers.to_dict("records")
    return [{k: int(v) if isinstance(v, bool) else v for k, v in row.items() if not pd.isna(v)} for row in records]


def _is_metric(samples: pd.DataFrame, column: str) -> bool:
    if column in IDENTITY or (column in CIRCUMSTANCES and column not in LOGGED_CIRCUMSTANCES):
        return False
    return bool(pd.api.types.is_numeric_dtype(samples[column]))


def _summary(samples: pd.DataFrame, run: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the cell's images (ratios: geometric), with interval and n where tables show the metric; counts.

    Labels, seeds, classes and other columns without a mean are left out.
    """
    out: dict[str, Any] = {"units": len(samples), "planned": run["planned"], "failures": run["failures"]}
    known = {m.name: m for m in metrics()}
    known |= {m.name + OWN: m.against_baseline() for m in metrics() if m.twice}
    for column in (*FIDELITY, *ALGORITHM, *TIMED, *LOGGED_CIRCUMSTANCES, *_extra(samples)):
        m = known.get(column)
        if column not in samples or not _is_metric(samples, column) or (m is not None and m.average == "none"):
            continue
        out |= _mean(column, samples[column].astype(float), samples["label"], m)
    if "target_rows_alone" in samples:  # the reference's rows are the cell's own where no other reference was recorded
        alone = samples["target_rows_alone"].astype(float)
        recorded = samples[REFERENCE_ROWS].astype(float).fillna(alone) if REFERENCE_ROWS in samples else alone
        samples = samples.assign(**{REFERENCE_ROWS: recorded})
    for m in known.values():
        if m.tabled and not m.measured and m.name not in samples and set(m.needs) <= set(samples):
            out |= _mean(m.name, m.function(**{name: samples[name].astype(float) for name in m.needs}), samples["label"], m)
    for m in known.values():
        if m.average == "pooled" and set(m.needs) <= set(samples):
            with np.errstate(all="ignore"):
                value = m.function(**{name: np.nansum(samples[name].astype(float)) for name in m.needs})
            out |= {m.name: float(value)} if np.isfinite(value) else {}
    rates = rate_by_stage(samples.get("stage_verdicts", ()))
    out |= {f"acceptance_rate_stage_{stage:02}": rate for stage, (rate, _) in rates.items()}
    commits = commits_per_round(samples.get("commit_trace", ()))
    out |= {f"rounds_committing_{stages:02}": rounds for stages, rounds in commits.items()}
    out["identical_units"] = int(samples["identical"].fillna(False).sum())
    return out


def _mean(name: str, column: pd.Series, labels: pd.Series, metric: Metric | None) -> dict[str, float]:
    there = np.isfinite(column.to_numpy(float))
    values = column.to_numpy(float)[there]
    if not len(values):
        return {}
    ratio = name.startswith("speedup") or (metric is not None and metric.ratio)
    if metric is None or not metric.tabled:
        return {name: math.exp(np.log(values).mean()) if ratio else math.fsum(values) / len(values)}
    found = (ratio_interval if ratio else mean_interval)(np.log(values) if ratio else values, labels[there].tolist(), 0.95)
    ends = {f"{name}_low": found.low, f"{name}_high": found.high}
    return {name: float(found.mean or 0), f"{name}_n": found.n, **{k: v for k, v in ends.items() if v is not None}}


def stage_key(stage: int) -> str:
    """Summary key of a stage's acceptance; two digits, so that stages sort."""
    return f"acceptance_stage_{stage:02}"


def _acceptance(stages: pd.DataFrame) -> dict[str, float]:
    """Mean share of accepted tokens by stage, over the images in which the stage was judged."""
    judged = stages.dropna(subset="accepted_share")
    means = {int(stage): rows["accepted_share"] for stage, rows in judged.groupby("stage")}
    return {stage_key(stage): math.fsum(values) / len(values) for stage, values in sorted(means.items())}


def _steadiness(timings: pd.DataFrame) -> dict[str, Any]:
    """Variation of one repeat of the speed-up, and whether that is unsteady; nothing where it is not known."""
    varies = spread(timings.to_dict("records"))
    return {"speedup_spread": varies, "unsteady": varies > UNSTEADY} if math.isfinite(varies) else {}


def _extra(samples: pd.DataFrame) -> list[str]:
    known = {*IDENTITY, *FIDELITY, *ALGORITHM, *ROUNDS, *TIMED, *CIRCUMSTANCES}
    return [c for c in samples if c not in known]


def _config(run: Mapping[str, Any]) -> dict[str, Any]:
    """The cell's configuration, then what the run was made with."""
    config: dict[str, Any] = json.loads(run["config"])
    facts = {k: _parsed(v) for k, v in run.items() if k not in ("config", "units", "planned", "failures", *config)}
    return {**config, **{k: v for k, v in facts.items() if v is not None}}


def _parsed(value: Any) -> Any:
    if isinstance(value, str):
        return json.loads(value) if value.startswith("{") else value
    return None if pd.isna(value) else value


def _picture(folder: Path, run: Mapping[str, Any], unit: Unit, row: Mapping[str, Any]) -> Picture | None:
    """The unit's images, None if its sample was not kept. The baseline's images are those of the baseline cell."""

    def kept(cell: str, suffix: str = "") -> Path | None:
        path = folder / "images" / cell / image_name(*unit, suffix)
        return path if path.exists() else None

    sample = kept(run["cell"])
    if sample is None:
        return None
    metrics = {name: row.get(name) for name in picture_metrics()}
    return Picture(*unit, sample, kept(run["baseline"]), kept(run["cell"], "_diff"), metrics)
