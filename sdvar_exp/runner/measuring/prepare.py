"""Before anything is written: the device, the models, the baselines, and a check of every cell against its pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from sdvar_exp.cell import Cell, ModelSpec, Sampling, Unit
from sdvar_exp.decoding.api import check_cell
from sdvar_exp.errors import UserError, require
from sdvar_exp.guest import kept_random_state
from sdvar_exp.models.pair import Pair, resolve_device
from sdvar_exp.plan import Plan, PlannedCell
from sdvar_exp.registry import Choice, plain
from sdvar_exp.store import fingerprint
from sdvar_exp.store.provenance import arithmetic, definitions

Load = Callable[[ModelSpec, torch.device, str], Pair]


@dataclass(frozen=True)
class Prepared:
    """A plan that can run: baselines included, models loaded, everything checked.

    pairs: by model specification. fingerprint: what may change a result. added: names of the baselines that were added.
    """

    plan: Plan
    pairs: Mapping[ModelSpec, Pair]
    device: torch.device
    threads: int
    fingerprint: Mapping[str, Any]
    added: tuple[str, ...] = ()


def prepare(plan: Plan, load: Load) -> Prepared:
    """Load every pair once and check every cell.

    Raises:
        UserError: a device or file that is not there; a cell or label that its pair cannot decode.
    """
    settings = plan.settings
    require(bool(plan.cells), "the plan has no cells; name at least one strategy")
    full, added = with_baselines(plan)
    device = resolve_device(settings.device)
    threads = settings.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    with kept_random_state():
        pairs = {spec: load(spec, device, settings.dtype) for spec in dict.fromkeys(p.cell.model for p in full.cells)}
    for planned in full.cells:
        check(planned, pairs[planned.cell.model], plan.labels)
    checkpoints = {spec.key: dict(pair.hashes) for spec, pair in pairs.items()}
    more: dict[str, Any] = {"arithmetic": arithmetic(device.type), "entries": definitions(p.cell for p in full.cells)}
    if device.type == "cuda":
        more["device_name"] = torch.cuda.get_device_name(device)
    made = fingerprint(checkpoints, device.type, settings.dtype, threads, **more)
    return Prepared(full, pairs, device, threads, made, added)


def with_baselines(plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """The plan with each cell once, in normal form, behind the reference and baselines that it lacks; names of those."""
    cells = {p.cell.id: replace(p, cell=p.cell.normalised()) for p in reversed(plan.cells)}
    ordered = {p.cell.id: cells[p.cell.id] for p in plan.cells}
    missing = [PlannedCell(cell, baseline_name(cell), ("strategy=sequential",)) for cell in plan.added()]
    return replace(plan, cells=(*missing, *ordered.values())), tuple(p.name for p in missing)


def check(planned: PlannedCell, pair: Pair, labels: tuple[int, ...]) -> None:
    """Raise `UserError`, naming the cell, if the pair cannot decode it."""
    units = [Unit(label, 0) for label in labels]
    try:
        check_cell(planned.cell, pair.pyramid.stages, units, pair.num_classes, pair)
    except UserError as error:
        raise UserError(f"{planned.name}: {error}") from error


def baseline_name(cell: Cell) -> str:
    """`sequential` and what is unusual in guidance, sampling and model."""
    words = [cell.strategy.name]
    default = Cell(cell.strategy)
    words += _unusual(cell.cfg_schedule, default.cfg_schedule)
    words += [f"{k}={v}" for k, v in plain(cell.sampling).items() if v != plain(Sampling())[k]]
    return " ".join(words + cell.model.words(default.model))


def _unusual(choice: Choice, default: Choice) -> list[str]:
    """Nothing for the default choice; else its name (if it differs) and the parameters that differ from their defaults."""
    same = choice.name == default.name
    fields = dataclasses.fields(choice.params)
    usual = plain(default.params) if same else {f.name: f.default for f in fields}
    changed = [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in plain(choice.params).items() if v != usual[k]]
    return changed if same else [choice.name, *changed]
