"""Settings of the study as a whole: labels, seeds, settings and the folder's name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sdvar_exp.config.composing import Tree, plain, shown
from sdvar_exp.config.folder import user_path
from sdvar_exp.config.schema import LARGEST
from sdvar_exp.errors import UserError, require
from sdvar_exp.metrics.quantities import OF_SETS, metrics, objectives
from sdvar_exp.plan import FIRST_LOOK, EngineOptions, Settings, Timing, Until, tracking_faults
from sdvar_exp.registry import written
from sdvar_exp.words import choices_text, did_you_mean

SEED_LIMIT = 2**32
MOST_SEEDS = 1_000_000  # of `seeds=n`: units are listed in memory, and a number this large is a slip
DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
LIMITS: dict[str, tuple[float, float]] = {
    "quota_gb": (0, 10**6),
    "threads": (0, 1024),
    "stage_images": (0, 10**9),
    "timing.units": (0, 10**9),
    "timing.repeats": (1, 10_000),
    "engine.unit_timeout_s": (0, 10**8),
    "engine.retries": (0, 1000),
    "engine.max_failures": (0, 10**9),
    "engine.workers": (0, 10_000),
    "engine.workers_per_job": (1, 1000),
    "engine.time_min": (1, 10**7),
    "engine.cpus": (1, 10_000),
    "engine.gpus": (0, 10_000),
    "engine.memory_gb": (0, 10**6),
    "engine.requeues": (0, 10_000),
}
"""Least and largest value of the numbers of a study: beyond these a thread, a timer or a scheduler would refuse them later."""
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}")


RANGE = re.compile(r"range\(\s*(\d{1,10})\s*,\s*(\d{1,10})\s*\)")


def counted(value: Any) -> Any:
    """`range(a,b)` of a yaml file as the list a … b-1, as on the command line; any other value as it is."""
    found = RANGE.fullmatch(value) if isinstance(value, str) else None
    ends = range(*map(int, found.groups())) if found else ()
    return list(ends) if 0 < len(ends) <= MOST_SEEDS else value


def is_int(value: Any) -> bool:
    """An integer, and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def parse_labels(value: Any, classes: int, model: str) -> tuple[int, ...]:
    """`3`, `[0,3]`, `range(0,3)` or `all` as a tuple within 0 … classes-1."""
    value = counted(value)
    if value == "all":
        return tuple(range(classes))
    listed = value if isinstance(value, list) else [value]
    good = bool(listed) and all(is_int(v) for v in listed)
    require(good, f"labels must be a class, a list of classes or all, got {shown(value)}")
    for label in listed:
        require(0 <= label < classes, f"label {label} is out of range: {model} has the classes 0 … {classes - 1}")
    return tuple(dict.fromkeys(listed))


def parse_seeds(value: Any) -> tuple[int, ...]:
    """`n` as 0 … n-1, a list or `range(a,b)` as it is."""
    value = counted(value)
    if is_int(value):
        require(value >= 1, f"seeds=n means the seeds 0 … n-1 and needs n ≥ 1, got {value}; one seed: seeds=[0]")
        require(
            value <= MOST_SEEDS, f"seeds=n means n seeds and takes n ≤ {MOST_SEEDS}, got {value}; one seed: seeds=[{value}]"
        )
        return tuple(range(value))
    good = isinstance(value, list) and bool(value) and all(is_int(v) for v in value)
    require(good, f"seeds must be a number n (seeds 0 … n-1) or a list of integers ≥ 0, or until, got {shown(value)}")
    for seed in value:
        require(0 <= seed < SEED_LIMIT, f"a seed must lie in 0 … 2³²-1, got {seed}")
    return tuple(dict.fromkeys(value))


def parse_until(value: Any, timed: int) -> Until:
    """`{quantity: half-width, …, most: seeds}`. timed: units that are timed at all."""
    form = "until must be {quantity: half-width, …, most: seeds}, e.g. until={pixel_mae:0.002,most:64}"
    require(isinstance(value, dict) and any(key != "most" for key in value), f"seeds=until needs to know what for: {form}")
    widths = {str(key): width for key, width in value.items() if key != "most"}
    most = value.get("most", Until.most)
    require(
        is_int(most) and FIRST_LOOK <= most <= MOST_SEEDS,
        f"until.most must be a number of seeds from {FIRST_LOOK} to {MOST_SEEDS}, got {shown(most)}",
    )
    known = [m.name for m in metrics() if m.summarised and m.average != "pooled" and (not m.timed or m.name == "speedup")]
    for name, width in widths.items():
        require(name in known, f"until: unknown quantity {name!r}{did_you_mean(name, known, choices_text(known))}")
        good = isinstance(width, int | float) and not isinstance(width, bool) and 0 < width < math.inf
        require(good, f"until.{name} must be a half-width > 0, got {shown(width)}")
    require("speedup" not in widths or timed > 0, "until names speedup, which timing.units=0 does not measure")
    return Until(tuple((name, float(width)) for name, width in widths.items()), most)


def parse_images(value: Any) -> str | int:
    """`all`, `none` or a count."""
    good = value in ("all", "none") or (is_int(value) and 0 <= value <= LARGEST)
    require(good, f"images must be all, none or a number ≥ 0, got {shown(value)}")
    return "none" if value == 0 else value


def settings_of(tree: Tree, errors: list[str]) -> Settings:
    """Settings of a composed tree; mistakes go to `errors`."""
    cfg = tree.cfg
    device, timing, threads = plain(cfg, "device"), plain(cfg, "timing"), plain(cfg, "threads")
    if not DEVICE.fullmatch(device):
        errors.append(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    quota = plain(cfg, "quota_gb")
    numbers = {"quota_gb": quota, "threads": threads, "stage_images": plain(cfg, "stage_images")}
    numbers |= {f"timing.{key}": timing[key] for key in ("units", "repeats")}
    if not (len(timing["band"]) == 2 and 0 < timing["band"][0] < 1 < timing["band"][1] < math.inf):
        errors.append(f"timing.band must be two numbers, one below and one above 1, e.g. [0.95,1.05]; got {timing['band']}")
    errors += [problem for key, value in numbers.items() if (problem := check_limits(key, value))]
    tracking = {key: plain(cfg.tracking, key) for key in ("mode", "tracker", "project", "entity", "base_url")}
    errors += tracking_faults(tracking)
    if tracking["tracker"] not in (known := written("tracker")):
        errors.append(f"unknown tracker {tracking['tracker']!r}{did_you_mean(tracking['tracker'], known, choices_text(known))}")
    objective = _objective(plain(cfg, "objective"), errors)
    images: str | int = "all"
    try:
        images = parse_images(plain(cfg, "images"))
    except UserError as error:
        errors.append(str(error))
    return Settings(
        device=device,
        dtype=plain(cfg, "dtype"),
        threads=threads,
        images=images,
        stage_images=plain(cfg, "stage_images"),
        timing=Timing(timing["units"], timing["repeats"], tuple(timing["band"])),
        tracking=tracking["mode"],
        tracker=tracking["tracker"],
        project=tracking["project"],
        entity=tracking["entity"],
        base_url=tracking["base_url"],
        engine=plain(cfg.engine, "name"),
        engine_options=engine_options(cfg, errors),
        plugins=tuple(plain(cfg, "plugins")),
        allow_mixed=plain(cfg, "allow_mixed"),
        enforce_clean=plain(cfg, "enforce_clean"),
        quota_gb=quota,
        objective=objective,
        debug=tree.choices.get("debug") or "none",
    )


def _objective(value: Any, errors: list[str]) -> str | tuple[str, ...] | None:
    """A name, a list of names as a tuple, or None; unknown ones go to `errors`."""
    if value is None:
        return None
    known = (*objectives(), *OF_SETS)
    if value == []:
        errors.append("objective=[] names nothing; leave it out, or list columns: [target_token_forwards,fd_real]")
    for name in value if isinstance(value, list) else (value,):
        if name not in known:
            hint = did_you_mean(str(name), known) or f"; {choices_text(known)}"
            errors.append(f"unknown objective {shown(name)}{hint}")
    return tuple(value) if isinstance(value, list) else value


def check_limits(key: str, value: Any) -> str | None:
    """The fault of a number of the study, in one line; None if there is none, or if it is no number."""
    if key not in LIMITS or isinstance(value, bool):
        return None
    least, most = LIMITS[key]
    if value < least:
        return f"{key} must be ≥ {least}, got {value}"
    return None if value <= most else f"{key} must be ≤ {most}, got {value}"


def engine_options(cfg: DictConfig, errors: list[str]) -> EngineOptions:
    """Options of the group `engine` beside its name; mistakes go to `errors`."""
    given: dict[str, Any] = {str(key): plain(cfg.engine, str(key)) for key in cfg.engine if key != "name"}
    errors += [problem for key, value in given.items() if (problem := check_limits(f"engine.{key}", value))]
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return EngineOptions(**values)


def study_name(tree: Tree) -> str:
    """The `study` key, else the experiment's name, else `default`."""
    said = plain(tree.cfg, "study")
    require(said is None or bool(said.strip()), "study must not be empty; leave it out, or give a folder name")
    name = said or (tree.choices.get("experiment") or "default").replace("/", "-")
    require(bool(STUDY_NAME.fullmatch(name)), f"study must be a folder name of letters, digits and . _ + = -, got {name!r}")
    return str(name)


def results_dir(cfg: DictConfig) -> Path:
    """Folder of all studies."""
    text = plain(cfg, "results_dir")
    require(bool(text.strip()), "results_dir must not be empty")
    return user_path(text, "results_dir")


def union(lists: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """All values in order of first appearance."""
    return tuple(dict.fromkeys(v for values in lists for v in values))
