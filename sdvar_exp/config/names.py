"""Short names of cells: strategy, rule and threshold, what differs from the defaults and what differs among the cells."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeGuard

from sdvar_exp.cell import Cell, ModelSpec, Sampling
from sdvar_exp.errors import UserError
from sdvar_exp.registry import KINDS, Choice, plain

SYMBOLS = {
    ("strategy", "entry_num"): "K=",
    ("strategy", "verify_until"): "until=",
    ("strategy", "target_stages"): "N=",
    ("strategy", "stages"): "",
    ("acceptance", "tau"): "τ=",
    ("acceptance", "theta"): "θ=",
    ("acceptance", "epsilon"): "ε=",
    ("acceptance", "alpha"): "α=",
    ("acceptance", "delta"): "δ=",
    ("acceptance", "until"): "<",
    ("gamma", "value"): "γ=",
    ("strategy", "exit_depth"): "exit=",
    ("proposer", "depth"): "d=",
    ("mask", "window"): "w=",
    ("sampling", "temperature"): "T=",
}
FILES = ("vae", "draft", "target")
PLACES = ("folder", "published")
"""Fields of a model specification that say where files lie, which decides nothing."""
Stated = frozenset[tuple[str, str, str]]
THRESHOLDS = {"tau", "theta", "epsilon", "alpha", "delta"}
ALWAYS = {"entry_num", "verify_until", "target_stages", "stages", "exit_depth"}


def _text(value: Any) -> str:
    value = plain(value)
    if isinstance(value, list):
        return "[" + ",".join(_text(v) for v in value) + "]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _parameter(kind: str, name: str, value: Any) -> str:
    """`τ=0.7`, `continue`, `repair`, `no bonus`."""
    if (kind, name) in SYMBOLS:
        return SYMBOLS[kind, name] + _text(value)
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, Enum) and name in ("on_reject", "mode", "noise"):
        return _text(value)
    return f"{name}={_text(value)}"


def _differences(kind: str, params: Any, default: Any, stated: Stated, owner: str = "") -> dict[str, str]:
    """Text of each parameter that differs from the default, that varies among the cells, or that is always stated.

    What the parameters name as `unread` is left out.
    """
    out = {}
    for f in dataclasses.fields(params):
        if f.name in getattr(params, "unread", ()):
            continue
        value = getattr(params, f.name)
        always = f.name in ALWAYS or (kind == "acceptance" and f.name in THRESHOLDS)
        if always or (kind, owner, f.name) in stated or value != getattr(default, f.name, dataclasses.MISSING):
            out[f.name] = _parameter(kind, f.name, value)
    return out


def _choice(kind: str, choice: Choice | None, default: Choice | None, stated: Stated) -> list[str]:
    """The choice's name, where it varies or is not the usual one, and its unusual parameters. A rule is always named."""
    if choice is None:
        return []
    same = default is not None and choice.name == default.name
    named = kind == "acceptance" or not same or (kind, "", "name") in stated
    usual = default.params if same and default is not None else _own_defaults(choice)
    return [*([choice.name] if named else []), *_differences(kind, choice.params, usual, stated, choice.name).values()]


def _own_defaults(choice: Choice) -> Any:
    """The entry's parameters with their default values; an empty object if some have none."""
    try:
        return type(choice.params)()
    except (TypeError, UserError):
        return object()


def short_names(cells: Sequence[Cell], default: Cell) -> list[str]:
    """A name for each of the normalised cells of a plan, no two equal. default: what a command without overrides means.

    Strategy, rule and threshold always; of all else what differs from the default, and what differs among the cells. Names
    that are equal for all that end in `#` and the first digits of the cell's id.
    """
    stated = _varied(cells)
    names = [_name(cell, default, stated) for cell in cells]
    return [f"{name} #{cell.id[:4]}" if names.count(name) > 1 else name for cell, name in zip(cells, names, strict=True)]


def _varied(cells: Iterable[Cell]) -> Stated:
    """(kind, entry, field) of every value that is not the same in all cells that have it; the entry is empty for a name."""
    seen: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for cell in cells:
        for kind in KINDS:
            if (choice := getattr(cell, kind)) is None:
                continue
            seen[kind, "", "name"].add(choice.name)
            for f in dataclasses.fields(choice.params):
                seen[kind, choice.name, f.name].add(repr(getattr(choice.params, f.name)))
        for f in dataclasses.fields(cell.sampling):
            if f.name != "noise" or "noise" in cell.reads:
                seen["sampling", "", f.name].add(repr(getattr(cell.sampling, f.name)))
        for f in dataclasses.fields(cell.model):
            value = getattr(cell.model, f.name)
            seen["model", "", f.name].add(PurePath(value).name if f.name in FILES else repr(value))
        seen["cell", "", "batch"].add(str(cell.batch))
    return frozenset(key for key, values in seen.items() if len(values) > 1)


def _name(cell: Cell, default: Cell, stated: Stated) -> str:
    own = _differences("strategy", cell.strategy.params, _own_defaults(cell.strategy), stated, cell.strategy.name)
    parts = [cell.strategy.name, *(own.pop(name) for name in list(own) if name in ALWAYS)]
    parts += [*_choice("acceptance", cell.acceptance, default.acceptance, stated), *own.values()]
    parts += _gamma(cell, stated)
    if cell.proposer is not None and (_unusual(cell.proposer) or ("proposer", "", "name") in stated):
        parts += [f"proposer={cell.proposer.name}", *_all("proposer", cell.proposer)]
    parts += _choice("mask", cell.mask, default.mask, stated)
    off = cell.cfg_schedule.name == "off"
    parts += ["cfg=off"] if off else _choice("cfg_schedule", cell.cfg_schedule, default.cfg_schedule, stated)
    sampling = _differences("sampling", cell.sampling, Sampling(), stated)
    parts += [text for name, text in sampling.items() if name != "noise" or "noise" in cell.reads]
    if cell.batch != 1 or ("cell", "", "batch") in stated:
        parts.append(f"B={cell.batch}")
    return " ".join([*parts, *_model(cell.model, default.model, stated)])


def _model(model: ModelSpec, default: ModelSpec, stated: Stated) -> list[str]:
    """The pair's name and arithmetic where they are unusual or vary, its files where they vary."""
    out = []
    for f in dataclasses.fields(model):
        value, varies = getattr(model, f.name), ("model", "", f.name) in stated
        if f.name in FILES:
            out += [f"{f.name}={PurePath(value).name or 'usual'}"] if varies else []
        elif f.name in PLACES or not (varies or value != getattr(default, f.name)):
            continue
        elif value or not f.name.endswith("_dtype"):
            out.append(str(value) if f.name in ("name", "execution") else f"{f.name.removesuffix('_dtype')}={_text(value)}")
    return out


def _unusual(proposer: Choice | None) -> TypeGuard[Choice]:
    return proposer is not None and not proposer.declares("usual")


def _all(kind: str, choice: Choice) -> list[str]:
    """Every parameter, as by default or not."""
    return [_parameter(kind, f.name, getattr(choice.params, f.name)) for f in dataclasses.fields(choice.params)]


def _gamma(cell: Cell, stated: Stated) -> list[str]:
    """Always stated: γ is what one looks for in a table."""
    if cell.gamma is None:
        return []
    if cell.gamma.name == "fixed":
        return [f"γ={_text(cell.gamma.params.value)}"]
    own = _differences("gamma", cell.gamma.params, _own_defaults(cell.gamma), stated, cell.gamma.name)
    return [cell.gamma.name, *own.values()]
