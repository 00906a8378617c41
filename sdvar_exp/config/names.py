"""A short name for a cell: its strategy, and what differs from the defaults."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any, TypeGuard

from sdvar_exp.cell import Cell, Sampling
from sdvar_exp.errors import UserError
from sdvar_exp.registry import Choice, plain

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
    ("proposer", "depth"): "d=",
    ("mask", "window"): "w=",
    ("sampling", "temperature"): "T=",
}
ALWAYS = {"entry_num", "verify_until", "target_stages", "stages"}


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


def _differences(kind: str, params: Any, default: Any) -> dict[str, str]:
    """Text of each parameter that differs from the default, or that is always stated."""
    out = {}
    for f in dataclasses.fields(params):
        value = getattr(params, f.name)
        if f.name in ALWAYS or value != getattr(default, f.name, dataclasses.MISSING):
            out[f.name] = _parameter(kind, f.name, value)
    return out


def _choice(kind: str, choice: Choice | None, default: Choice | None) -> list[str]:
    """Nothing where a factor is as by default; else the choice's name and its unusual parameters."""
    if choice is None or choice == default:
        return []
    if default is not None and choice.name == default.name:
        return [*_differences(kind, choice.params, default.params).values()]
    return [choice.name, *_differences(kind, choice.params, _own_defaults(choice)).values()]


def _own_defaults(choice: Choice) -> Any:
    """The entry's parameters with their default values; an empty object if some have none."""
    try:
        return type(choice.params)()
    except (TypeError, UserError):
        return object()


def short_name(cell: Cell, default: Cell) -> str:
    """Name of a normalised cell. default: what a command without overrides means.

    A pure function of the two, so that one cell has one name in every table. Different cells differ in it, unless
    they differ in the files of a pair of one name.
    """
    own = _differences("strategy", cell.strategy.params, _own_defaults(cell.strategy))
    parts = [cell.strategy.name, *(own.pop(name) for name in list(own) if name in ALWAYS)]
    parts += [*_choice("acceptance", cell.acceptance, default.acceptance), *own.values()]
    parts += _gamma(cell)
    parts += [f"proposer={cell.proposer.name}", *_all("proposer", cell.proposer)] if _unusual(cell.proposer) else []
    parts += _choice("mask", cell.mask, default.mask)
    off = cell.cfg_schedule.name == "off"
    parts += ["cfg=off"] if off else _choice("cfg_schedule", cell.cfg_schedule, default.cfg_schedule)
    parts += _differences("sampling", cell.sampling, Sampling()).values()
    if cell.batch != 1:
        parts.append(f"B={cell.batch}")
    return " ".join(parts + cell.model.words(default.model))


def _unusual(proposer: Choice | None) -> TypeGuard[Choice]:
    return proposer is not None and not proposer.declares("usual")


def _all(kind: str, choice: Choice) -> list[str]:
    """Every parameter, as by default or not."""
    return [_parameter(kind, f.name, getattr(choice.params, f.name)) for f in dataclasses.fields(choice.params)]


def _gamma(cell: Cell) -> list[str]:
    """Always stated: γ is what one looks for in a table."""
    if cell.gamma is None:
        return []
    if cell.gamma.name == "fixed":
        return [f"γ={_text(cell.gamma.params.value)}"]
    return [cell.gamma.name, *_differences("gamma", cell.gamma.params, _own_defaults(cell.gamma)).values()]
