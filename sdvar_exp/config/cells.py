"""Every combination of cell-level overrides, composed, checked and turned into a `Cell`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from sdvar_exp import registry
from sdvar_exp.cell import ROLES, Cell, ModelSpec, Sampling
from sdvar_exp.config import designs
from sdvar_exp.config.composing import Composer, Tree, plain, shown
from sdvar_exp.config.folder import user_path
from sdvar_exp.config.overrides import MOST_COMBINATIONS, Item, Known, expand_all
from sdvar_exp.config.schema import check_number, to_choice, values_of
from sdvar_exp.config.template import parameters
from sdvar_exp.errors import UserError, require
from sdvar_exp.words import count, listed

FACTORS = ("mask", "acceptance", "gamma", "proposer")
REFERENCE = "reference."
ARITHMETIC = ("model.execution", "model.autocast", *(f"model.{role}_dtype" for role in ROLES))
"""Keys of what a command sets for its cells that do not count for the reference."""
REFERENCE_GROUPS = ("cfg_schedule", "sampling", "model")
LARGE = 2  # combinations from which on trees are assembled instead of composed one by one
ENOUGH = 200  # mistakes, repeated ones included, after which no more combinations are looked at
CELLS_EXAMPLE = "as [['strategy=sequential'], ['strategy=test3', 'strategy.entry_num=3']]"
T = TypeVar("T")


@dataclass
class Job:
    """One combination, checked. dropped: parameters, as `group.parameter`, that its choices do not have but others do."""

    items: Mapping[str, Item]
    cell: Cell
    dropped: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(item.text for item in self.items.values())


@dataclass
class Misfit:
    """One combination of choices that do not go together, and why."""

    items: Mapping[str, Item]
    why: str


@dataclass
class Work:
    """State of one `compose` call: what is known, what was found wrong, what is worth saying.

    models: number of classes of every model that was composed. dtype: of the study. design: what is swept and how it is
    combined, in words.
    """

    known: Known
    composer: Composer
    models: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    dtype: str = "float32"
    design: str = "product"

    def attempt(self, otherwise: T, make: Callable[..., T], *args: Any) -> T:
        """`make(*args)`, or `otherwise` after noting the user's mistake."""
        try:
            return make(*args)
        except UserError as error:
            self.errors.append(str(error))
            return otherwise


def jobs(master: Tree, cell_axes: Mapping[str, list[Item]], context: Mapping[str, Item], work: Work) -> list[Job]:
    """`hydra.sweeper.params`, each row of `cells`, the command line: what stands later here beats what stands before.

    The design combines the swept values; the rules of `exclude` and `require` leave combinations out.
    """
    texts = [f"{key}={value}" for key, value in master.params.items()]
    swept = _cell_level(expand_all(texts, work.known, work.errors), work.errors)
    rows = [{**swept, **row, **cell_axes} for row in _listed(master, work)]
    name = plain(master.cfg.design, "name")
    work.design = designs.describe(name, rows)
    if name == "list" and plain(master.cfg, "cells") is None:
        work.errors.append(f"design=list needs cells, a list of lists of overrides, {CELLS_EXAMPLE}")
    nothing: list[designs.Combination] = []
    arranged = [work.attempt(nothing, designs.DESIGNS[name], row) for row in rows]
    no_rules: list[designs.Rule] = []
    rules = [
        rule
        for kind in designs.RULES
        for rule in work.attempt(no_rules, designs.read_rules, kind, plain(master.cfg, kind), work.known)
    ]
    if (size := sum(map(len, arranged))) > MOST_COMBINATIONS:
        work.errors.append(f"these are {size} combinations, more than {MOST_COMBINATIONS}: give several commands")
        return []
    combinations = [c for row in arranged for c in row if not designs.excluded(rules, c, None)]
    work.composer.large = len(combinations) > LARGE
    offered = {group: {v for row in rows for v in _values(row, group, context, master)} for group in registry.KINDS}
    made = []
    for combination in combinations:
        made.append(_job(combination, context, rules, offered, work))
        if len(work.errors) > ENOUGH:
            return []
    work.notices += [rule.notice() for rule in rules]
    good = [job for job in made if isinstance(job, Job)]
    _leave_out(good, [job for job in made if isinstance(job, Misfit)], rows, work)
    if rules and not work.errors and not good:
        kinds = list(dict.fromkeys(rule.kind for rule in rules))
        leave = f"{kinds[0]} leaves" if len(kinds) == 1 else f"{' and '.join(kinds)} leave"
        work.errors.append(f"{leave} out every combination; drop a rule")
    return good


def _values(row: designs.Axes, group: str, context: Mapping[str, Item], master: Tree) -> list[Any]:
    """The choices of a group that a row asks for: its own, else the one that the command makes for all rows."""
    if group in row:
        return [item.value for item in row[group]]
    if group in context:
        return [context[group].value]
    return [OmegaConf.select(master.cfg, f"{group}.name", throw_on_resolution_failure=False)]


def _leave_out(good: Sequence[Job], misfits: Sequence[Misfit], rows: Sequence[designs.Axes], work: Work) -> None:
    """Note the combinations that do not fit while each of their swept values fits elsewhere; the others are mistakes."""
    swept = {key for row in rows for key in designs.swept(row)}
    fits = {(key, item.text) for job in good for key, item in job.items.items()}
    forgiven: Counter[str] = Counter()
    for misfit in misfits:
        own = {(key, item.text) for key, item in misfit.items.items() if key in swept}
        if own and own <= fits:
            forgiven[misfit.why] += 1
        else:
            work.errors.append(misfit.why)
    work.notices += [f"{count(n, 'combination')} left out: {why}" for why, n in forgiven.items()]


def _foreign(items: Mapping[str, Item], offered: Mapping[str, set[Any]]) -> list[str]:
    """Keys of parameters that the chosen entry does not have, though another that is swept over does."""
    out = []
    for key in items:
        group, dot, word = key.partition(".")
        others = offered.get(group, set())
        if dot and len(others) > 1 and group in items:
            owners = {name for name in others if word in parameters(group, str(name))}
            out += [key] if owners and items[group].value not in owners else []
    return out


def _listed(master: Tree, work: Work) -> list[dict[str, list[Item]]]:
    """The root key `cells`, expanded; one empty item where there is none."""
    before = len(work.errors)
    value = work.attempt(None, plain, master.cfg, "cells")
    if value is None:
        return [{}] if len(work.errors) == before else []
    rows = value if isinstance(value, list) else []
    if not rows or not all(isinstance(row, list) and all(isinstance(text, str) for text in row) for row in rows):
        work.errors.append(f"cells must be a list of lists of overrides, {CELLS_EXAMPLE}, not {shown(value)}")
        return []
    return [_cell_level(expand_all(row, work.known, work.errors), work.errors) for row in rows]


def _cell_level(axes: Mapping[str, list[Item]], errors: list[str]) -> dict[str, list[Item]]:
    for key, items in axes.items():
        if not items[0].of_cell:
            errors.append(
                f"{key} belongs to the whole study: it cannot stand in cells or hydra.sweeper.params; "
                f"write it beside them ({key}: …)"
            )
    return {key: items for key, items in axes.items() if items[0].of_cell}


def _job(
    items: Mapping[str, Item],
    context: Mapping[str, Item],
    rules: Sequence[designs.Rule],
    offered: Mapping[str, set[Any]],
    work: Work,
) -> Job | Misfit | None:
    before = len(work.errors)
    dropped = [] if work.known.bad else _foreign(items, offered)
    for key in dropped:
        group, _, word = key.partition(".")
        note = f"{key} is left out for {group}={items[group].value}, which has no {word}"
        work.notices += [note] if note not in work.notices else []
    items = {key: item for key, item in items.items() if key not in dropped}
    tree = work.composer.job({**context, **items}, work.errors)
    if tree is None or (len(work.errors) == before and designs.excluded(rules, items, tree)):
        return None
    stages, classes = (work.attempt(0, plain, tree.cfg.model, key) for key in ("stages", "classes"))
    if classes and stages:
        work.attempt(None, _check_sizes, classes, stages)
        work.models[str(tree.cfg.model.name)] = classes
    cell = to_cell(tree.cfg, work)
    if cell is None or len(work.errors) > before:
        return None
    try:
        if not work.known.bad:
            check_cell(cell, stages)
    except UserError as error:
        return Misfit(items, str(error))
    _note_guidance(cell, tree, work.notices)
    return Job(items, cell, tuple(dropped))


def _check_sizes(classes: int, stages: int) -> None:
    require(1 <= classes <= 10**6, f"model.classes must lie in 1 … {10**6}, got {classes}")
    require(1 <= stages <= 100, f"model.stages must lie in 1 … 100, got {stages}")


def _note_guidance(cell: Cell, tree: Tree, notices: list[str]) -> None:
    """Say once of a model that is tuned to need no guidance that a cell guides it."""
    note = f"model={cell.model.name} is tuned to need no guidance: use cfg_schedule=off"
    if cell.cfg_schedule.name != "off" and not plain(tree.cfg.model, "guided") and note not in notices:
        notices.append(note)


def check_cell(cell: Cell, stages: int) -> None:
    """Run the checks that the chosen entries declare for a pyramid of `stages` stages."""
    for kind in ("strategy", *(f for f in FACTORS if f in cell.reads), "cfg_schedule"):
        choice = getattr(cell, kind)
        test = choice.entry.meta.get("check") if choice is not None else None
        if test is not None:
            test(cell, stages)
        if choice is not None and "check_files" in choice.entry.meta:
            choice.entry.meta["check_files"](cell)


def to_cell(cfg: DictConfig, work: Work) -> Cell | None:
    """A composed tree as a `Cell`; every mistake in its parts is reported."""
    before = len(work.errors)
    choices = {kind: work.attempt(None, to_choice, kind, cfg[kind]) for kind in registry.KINDS}
    sampling = work.attempt(None, lambda: Sampling(**values_of(Sampling, cfg.sampling, "sampling")))
    model = {f.name: work.attempt("", plain, cfg.model, f.name) for f in dataclasses.fields(ModelSpec)}
    for role in ("vae", "draft", "target", "folder"):
        work.attempt(Path(), user_path, model[role], f"model.{role}")
    spec = work.attempt(None, lambda: ModelSpec(**model).under(work.dtype))
    if len(work.errors) > before:
        return None
    parts: dict[str, Any] = {**choices, "sampling": sampling, "model": spec}
    batch = plain(cfg, "batch")
    work.attempt(None, check_number, "batch", batch)
    return work.attempt(None, lambda: Cell(batch=batch, **parts))


def reference_words(master: Tree, work: Work) -> list[str]:
    """The root key `reference` as overrides: {cfg_schedule: {cfg: 1.5}} gives cfg_schedule.cfg=1.5."""

    def words(node: Mapping[str, Any], place: str) -> list[str]:
        nested = (words(v, f"{place}{k}.") if isinstance(v, Mapping) else [f"{place}{k}={v}"] for k, v in node.items())
        return [word for found in nested for word in found]

    value = plain(master.cfg, "reference")
    if value is None or isinstance(value, Mapping):
        return words(value or {}, "")
    work.errors.append("reference must name guidance, sampling or model, as {cfg_schedule: {cfg: 1.5}}, not " + shown(value))
    return []


def reference_of(master: Tree, items: Mapping[str, Item], words: Sequence[str], work: Work) -> Cell | None:
    """The target alone under the study's own guidance, sampling and model, as `words` override them.

    Eager and of one precision unless `words`, or a model that they choose, say otherwise.

    items: what the command sets for all cells. Raises nothing: mistakes in `words` go to `work.errors`.
    """
    for word in words:
        key = word.partition("=")[0]
        if key.split(".")[0] not in REFERENCE_GROUPS or "=" not in word:
            work.errors.append(
                f"{REFERENCE}{word}: the reference is the target alone, stage by stage; "
                f"set its {listed(REFERENCE_GROUPS, 'or')}, e.g. {REFERENCE}cfg_schedule.cfg=1.5"
            )
            return None
    before = len(work.errors)
    found = expand_all(words, work.known, work.errors)
    work.errors += [
        f"{REFERENCE}{key}: the reference is one decode; give one value" for key, many in found.items() if len(many) > 1
    ]
    own = {key: several[0] for key, several in found.items()}
    if len(work.errors) > before:
        return None
    chosen = {key for key, item in own.items() if item.is_group}
    usual = {key: item for key, item in items.items() if key.split(".")[0] not in chosen and key not in ARITHMETIC}
    trial = dataclasses.replace(work, errors=[], notices=[])
    named = {key.split(".")[0] for key in own}
    attempts = [usual, {k: v for k, v in usual.items() if v.is_group}]
    attempts.append({k: v for k, v in attempts[-1].items() if k not in named})  # cfg_schedule=off has no cfg to set
    for attempt in ({**some, **own} for some in attempts):
        trial.errors = []
        tree = work.composer.job(attempt, trial.errors)
        cell = to_cell(tree.cfg, trial) if tree is not None and not trial.errors else None
        if cell is not None:
            unusual = cell.model.arithmetic()
            said = {name: getattr(cell.model, name) for name in unusual if "model" in own or f"model.{name}" in own}
            return dataclasses.replace(cell.baseline(), model=dataclasses.replace(cell.model.plainly(), **said)).normalised()
    work.errors += [f"reference: {line}" for line in trial.errors] if own else []
    return None


def default_cell(work: Work) -> Cell:
    """The cell of a command without overrides, from which short names are told."""
    cell = to_cell(work.composer.base(()).cfg, work)
    if cell is None:
        raise UserError(f"conf/config.yaml does not compose: {work.errors[-1]}")
    return cell


def reason(job: Job, kept: Cell) -> str:
    """The reason for which a combination is the same cell as one before."""
    if kept.strategy.name != job.cell.strategy.name:
        return f"{job.cell.strategy.name} with these settings is {kept.strategy.name}"
    if job.dropped:
        group, _, word = job.dropped[0].partition(".")
        return f"{group}={job.items[group].value} has no {word}"
    if unused := [role for role in job.cell.model.dtypes if role not in kept.model.dtypes]:
        return f"{kept.strategy.name} runs no {listed(unused, 'or')}"
    varied = {key.split(".")[0] for key in job.items}
    unread = [f for f in FACTORS if f not in kept.reads and f in varied]
    return f"{kept.strategy.name} reads no {listed(unread, 'or')}" if unread else "some are listed twice"
