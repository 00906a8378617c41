"""From a command line to a `Plan`: expand, compose and check everything, then collapse duplicates."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sdvar_exp.cell import ModelSpec
from sdvar_exp.config.cells import (
    FACTORS,
    REFERENCE,
    REFERENCE_GROUPS,
    Job,
    Work,
    default_cell,
    jobs,
    reason,
    reference_of,
    reference_words,
)
from sdvar_exp.config.command import load_entries, read_command
from sdvar_exp.config.composing import Composer, Tree, plain, shown, started
from sdvar_exp.config.errors import ConfigErrors
from sdvar_exp.config.folder import nearest_folder, user_path
from sdvar_exp.config.names import short_names
from sdvar_exp.config.overrides import Item, Known, expand_all
from sdvar_exp.config.study import is_int, parse_labels, parse_seeds, parse_until, results_dir, settings_of, study_name, union
from sdvar_exp.errors import UserError, require
from sdvar_exp.plan import Plan, PlannedCell, Until
from sdvar_exp.words import count, some

UNITED = ("labels", "seeds")


def compose(argv: Sequence[str]) -> Plan:
    """Everything that a command asks for.

    Raises:
        ConfigErrors: with every mistake of the command, one line each.
    """
    command = read_command(argv)
    load_entries(command)
    with started(command.extra):
        work = Work(Known(command.extra), Composer(command.extra))
        said = [word for word in command.overrides if word.lstrip("+").startswith(REFERENCE)]
        axes = expand_all([word for word in command.overrides if word not in said], work.known, work.errors)
        _refuse_study_sweeps(axes, work.errors)
        if "hydra.searchpath" in axes:
            work.composer.searchpath = work.attempt((), _searchpath, axes.pop("hydra.searchpath")[0].value)
        plan = _plan(axes, said, work, tuple(argv))
    plugins = tuple(dict.fromkeys((*plan.settings.plugins, *command.plugins)))
    return replace(plan, settings=replace(plan.settings, plugins=plugins))


def _plan(axes: Mapping[str, list[Item]], said: Sequence[str], work: Work, argv: tuple[str, ...]) -> Plan:
    study_items = {key: items[0] for key, items in axes.items() if not items[0].of_cell}
    cell_axes = {key: items for key, items in axes.items() if items[0].of_cell}
    master = work.composer.job(study_items, work.errors)
    if master is None:
        raise ConfigErrors(work.errors)
    work.dtype = str(plain(master.cfg, "dtype"))
    context = {key: item for key, item in study_items.items() if item.is_group}
    made = jobs(master, cell_axes, context, work)
    words = [*reference_words(master, work), *(word.lstrip("+").removeprefix(REFERENCE) for word in said)]
    reference = reference_of(master, {**context, **_unswept(cell_axes)}, words, work)
    labels = _labels(axes, master, work)
    timing = plain(master.cfg, "timing")
    if not isinstance(timing, dict):  # an interpolation can bring any value where a mapping stands
        raise ConfigErrors([*work.errors, f"timing must be set by its keys (units, repeats, band), got {timing!r}"])
    until = _until(master, timing["units"], work)
    seeds = tuple(range(until.most)) if until else _seeds(axes, master, work)
    settings = settings_of(master, work.errors)
    name = work.attempt("", study_name, master)
    where = work.attempt(Path(), results_dir, master.cfg)
    work.attempt(Path(), lambda: nearest_folder(where / name))
    if work.errors:
        raise ConfigErrors(work.errors)
    experiment = context.get("experiment")
    cells = _collapse(made, (experiment.text,) if experiment and experiment.value else (), work)
    _note_unread(cell_axes, made, work.notices)
    notices = tuple(work.notices)
    return Plan(
        *(name, where, cells, labels, seeds, settings, argv, notices, work.design),
        reference=reference,
        said=bool(words),
        until=until,
    )


def _unswept(axes: Mapping[str, list[Item]]) -> dict[str, Item]:
    """Guidance, sampling and model as the command sets them for all of its cells."""
    return {
        key: items[0]
        for key, items in axes.items()
        if len(items) == 1 and not items[0].swept and key.split(".")[0] in REFERENCE_GROUPS
    }


def _searchpath(value: Any) -> tuple[str, ...]:
    """The folders of `hydra.searchpath=[…]`, their ~ filled in."""
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and text.strip() for text in listed):
        raise UserError(f"hydra.searchpath must be a list of folders, got {shown(value)}")
    out = []
    for text in listed:
        scheme, _, path = text.rpartition("://")
        if scheme in ("", "file"):
            folder = user_path(path, "hydra.searchpath")
            require(folder.is_dir(), f"hydra.searchpath {path}: no such folder")
            out.append(f"file://{folder.absolute()}")
        elif scheme == "pkg":
            require(_is_package(path), f"hydra.searchpath {text}: no such package; install it, or give a folder")
            out.append(text)
        else:
            raise UserError(f"hydra.searchpath {text}: give a folder, file://FOLDER or pkg://PACKAGE")
    return tuple(out)


def _is_package(place: str) -> bool:
    """Whether a package is there, as `package.of.configs` or `package/folder`."""
    try:
        return find_spec(place.replace("/", ".").split(".")[0]) is not None and find_spec(place.replace("/", ".")) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _refuse_study_sweeps(axes: Mapping[str, Sequence[Item]], errors: list[str]) -> None:
    for key, items in axes.items():
        if len(items) > 1 and not items[0].of_cell and key not in UNITED:
            values = some((item.text.partition("=")[2] for item in items), comma=",")
            errors.append(f"{key}={values}: {key} belongs to the whole study and cannot be swept; give one command per value")


def _labels(axes: Mapping[str, list[Item]], master: Tree, work: Work) -> tuple[int, ...]:
    """Union over a sweep of `labels`, checked against the classes of every model in the plan."""
    values = [item.value for item in axes["labels"]] if "labels" in axes else [plain(master.cfg, "labels")]
    if "all" in values and len(set(work.models.values())) > 1:
        work.errors.append(f"labels=all differs between {', '.join(work.models)}; list the labels")
    _note_repeats("labels", values, work.notices)
    return union(
        work.attempt((), parse_labels, value, classes, model) for model, classes in work.models.items() for value in values
    )


def _note_repeats(key: str, values: Sequence[Any], notices: list[str]) -> None:
    """Labels and seeds that are named more than once."""
    named = Counter(str(one) for value in values for one in (value if isinstance(value, list) else [value]))
    if twice := [one for one, times in named.items() if times > 1]:
        notices.append(f"{key}: {some(twice)} named more than once; a repetition is the same image and is decoded once")


def _until(master: Tree, timed: int, work: Work) -> Until | None:
    """The rule that ends `seeds=until`; None for seeds that are named."""
    value = plain(master.cfg, "until")
    if plain(master.cfg, "seeds") == "until":
        return work.attempt(None, parse_until, value, timed)
    if value is not None:
        work.notices.append("until=… has no effect: it ends seeds=until")
    return None


def _seeds(axes: Mapping[str, list[Item]], master: Tree, work: Work) -> tuple[int, ...]:
    """Union over a sweep of `seeds`, in which a number is a seed; alone, a number n means the seeds 0 … n-1."""
    values = [item.value for item in axes["seeds"]] if "seeds" in axes else [plain(master.cfg, "seeds")]
    _note_repeats("seeds", [value for value in values if isinstance(value, list) or len(values) > 1], work.notices)
    if "seeds" not in axes:
        return work.attempt((), parse_seeds, plain(master.cfg, "seeds"))
    items = axes["seeds"]
    seeds = union(work.attempt((), parse_seeds, [i.value] if i.swept and is_int(i.value) else i.value) for i in items)
    if any(item.swept and is_int(item.value) for item in items):
        listed = some(seeds, comma=",")
        work.notices.append(f"a sweep of seeds means these seeds, seeds=[{listed}]; seeds=n are the seeds 0 … n-1")
    return seeds


def _collapse(made: Sequence[Job], prefix: tuple[str, ...], work: Work) -> tuple[PlannedCell, ...]:
    """One planned cell per cell id, in order of first appearance, with a notice if some fell together."""
    cells: dict[str, PlannedCell] = {}
    reasons: dict[str, None] = {}
    for job in made:
        cell = job.cell.normalised()
        key = cell.id
        if key in cells:
            reasons.setdefault(reason(job, cell))
            if cell.model != cells[key].cell.model:
                work.errors.append(_same_files(cells[key].cell.model, cell.model))
        else:
            cells[key] = PlannedCell(cell, "", prefix + job.texts)
    if work.errors:
        raise ConfigErrors(work.errors)
    if reasons:
        work.notices.append(
            f"{len(made)} combinations give {count(len(cells), 'cell')}, "
            f"{count(len(made) - len(cells), 'duplicate')} collapsed: {'; '.join(reasons)}"
        )
    names = short_names([planned.cell for planned in cells.values()], default_cell(work))
    return tuple(dataclasses.replace(planned, name=name) for planned, name in zip(cells.values(), names, strict=True))


def _same_files(kept: ModelSpec, other: ModelSpec) -> str:
    """Files are known by their names, wherever they lie: two sets of one name cannot stand in one study."""
    different = next(f for f in ("folder", "vae", "draft", "target", "published") if getattr(kept, f) != getattr(other, f))
    return (
        f"model.{different} {getattr(kept, different)!r} and {getattr(other, different)!r}: files are told apart by their "
        "names, not by where they lie, and these have the same; rename one, or use one study each"
    )


def _note_unread(cell_axes: Mapping[str, list[Item]], made: Sequence[Job], notices: list[str]) -> None:
    """Factors given on the command line that no cell of the plan reads."""
    for key, items in cell_axes.items():
        factor = key.split(".")[0]
        if factor in FACTORS and len(items) == 1 and not any(factor in job.cell.reads for job in made):
            who = ", ".join(dict.fromkeys(job.cell.strategy.name for job in made))
            notices.append(f"{items[0].text} has no effect: {who} reads no {factor}")
