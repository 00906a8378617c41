"""Registers by name: choices of a configuration (strategies, masks, acceptance rules, γ controllers, proposers,
guidance schedules), what every report reads (metrics), what it draws (figures), and where runs
are sent (trackers).

An entry is a frozen dataclass of parameters plus a function, registered by a decorator in a file of its own.
Files are discovered, no list is edited. Importing an entry's file imports no torch, so that planning stays light.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

from sdvar_exp.errors import UserError

KINDS = ("strategy", "mask", "acceptance", "gamma", "proposer", "cfg_schedule")
"""Kinds that a configuration chooses from."""
PACKAGES = {
    "strategy": "sdvar_exp.decoding.strategies",
    "mask": "sdvar_exp.decoding.masks",
    "acceptance": "sdvar_exp.decoding.acceptance",
    "gamma": "sdvar_exp.decoding.gamma",
    "proposer": "sdvar_exp.decoding.proposers",
    "cfg_schedule": "sdvar_exp.decoding.guidance",
    "metric": "sdvar_exp.metrics.quantities",
    "figure": "sdvar_exp.report.plots",
    "tracker": "sdvar_exp.tracking",
}
"""By kind, the package whose files, or the module that, registers the project's own entries."""
ENTRY_POINT_GROUP = "sdvar_exp.plugins"


@dataclass(frozen=True)
class Empty:
    """Parameters of an entry that has none."""


@dataclass(frozen=True)
class Entry:
    """One registered choice. `meta` holds facts that its kind declares, e.g. `reads` of a strategy."""

    kind: str
    name: str
    params: type
    function: Callable[..., Any]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def doc(self) -> str:
        """First line of the docstring."""
        text = self.function.__doc__ or self.params.__doc__ or ""
        return text.strip().splitlines()[0] if text.strip() else ""


@dataclass(frozen=True)
class Choice:
    """An entry with values for its parameters: what a configuration holds."""

    kind: str
    name: str
    params: Any

    @property
    def entry(self) -> Entry:
        return get(self.kind, self.name)

    def declares(self, fact: str, default: Any = None) -> Any:
        """The entry's declaration `fact`; a function there is asked with the parameters."""
        found = self.entry.meta.get(fact, default)
        return found(self.params) if callable(found) else found

    def as_dict(self) -> dict[str, Any]:
        """Plain data for hashing and storage: {"name": …, parameter: value, …}.

        An entry from outside the project also gives the hash of its file, as `source`: who edits it gets another cell.
        """
        out = {"name": self.name, **plain(self.params)}
        for f in dataclasses.fields(self.params):  # an option added later: who does not use it keeps the cell
            unset = f.metadata.get("said_if_set") and getattr(self.params, f.name) == f.default
            if unset or (f.metadata.get("said_if_read") and f.name in self.params.unread):
                del out[f.name]
        source = source_of(self.entry.function)
        return {**out, "source": source} if source else out


def source_of(function: Callable[..., Any]) -> str | None:
    """16 hexadecimal digits of the SHA-256 of the file that defines a function; None for the project's own."""
    if function.__module__.startswith("sdvar_exp."):
        return None
    file = inspect.getsourcefile(function)
    content = Path(file).read_bytes() if file and Path(file).is_file() else function.__code__.co_code
    return hashlib.sha256(content).hexdigest()[:16]


_entries: dict[tuple[str, str], Entry] = {}
_loaded: set[str] = set()
_loading = threading.RLock()


def register(kind: str, name: str, params: type = Empty, **meta: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: make `function` selectable as `kind`=`name`, with a frozen dataclass of parameters."""
    if kind not in PACKAGES:
        raise ValueError(f"unknown kind {kind!r}, use one of {', '.join(PACKAGES)}")
    if not dataclasses.is_dataclass(params):
        raise TypeError(f"parameters of {kind}={name} must be a dataclass, got {params!r}")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        known = _entries.get((kind, name))
        if known is not None and known.function.__module__ != function.__module__:
            raise UserError(f"{kind}={name} is registered twice: {known.function.__module__}, {function.__module__}")
        _entries[kind, name] = Entry(kind, name, params, function, meta)
        return function

    return decorate


def discover(plugins: Iterable[str] = ()) -> None:
    """Import the files of every kind that a configuration chooses from, then installed entry points, then the named modules,
    also of this folder."""
    for kind in KINDS:
        load(kind)
    _load_entry_points()
    for name in plugins:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(name)
        except (ImportError, ValueError, TypeError, SyntaxError) as error:
            raise UserError(f"plugins: cannot import {name!r}: {' '.join(str(error).split())}") from error


def load(kind: str) -> None:
    """Import the files that register the project's own entries of a kind."""
    _once(PACKAGES[kind], partial(_import_files, PACKAGES[kind]))


def _import_files(package: str) -> None:
    module = importlib.import_module(package)
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        importlib.import_module(f"{package}.{info.name}")


def _load_entry_points() -> None:
    _once(ENTRY_POINT_GROUP, lambda: [point.load() for point in entry_points(group=ENTRY_POINT_GROUP)])


def _once(what: str, load: Callable[[], Any]) -> None:
    """Load something at its first need; other threads wait, and a file that is being loaded may ask for its own kind."""
    with _loading:
        if what in _loaded:
            return
        _loaded.add(what)
        try:
            load()
        except BaseException:
            _loaded.discard(what)
            raise


def _find(kind: str) -> None:
    """Load the entries of a kind, so that who asks for a metric need not load every strategy, nor a plan every figure."""
    if kind in KINDS:
        discover()
    else:
        load(kind)
        _load_entry_points()


def get(kind: str, name: str) -> Entry:
    """The entry `kind`=`name`; `UserError` naming the choices if there is none."""
    if (kind, name) not in _entries:
        _find(kind)
    try:
        return _entries[kind, name]
    except KeyError:
        raise UserError(f"unknown {kind} {name!r}; choose one of {', '.join(names(kind))}") from None


def declared(kind: str, name: str, fact: str) -> Any:
    """The declaration `fact` of the entry `kind`=`name`; None where it declares nothing, or is not installed here."""
    _find(kind)
    entry = _entries.get((kind, name))
    return None if entry is None else entry.meta.get(fact)


def own(kind: str) -> list[Entry]:
    """The project's own entries of a kind; no plugin is loaded for it."""
    load(kind)
    return [e for e in list(_entries.values()) if e.kind == kind and e.function.__module__.startswith("sdvar_exp.")]


def names(kind: str) -> list[str]:
    """Names of all entries of a kind, sorted."""
    _find(kind)
    return sorted(n for k, n in _entries if k == kind)


def written(kind: str) -> list[str]:
    """Names of the entries of a kind as its files spell them, and of those that are loaded; imports none of the files.

    A name is a text in the decorator, or a constant of the module.
    """
    found = {name for k, name in list(_entries) if k == kind}
    package = Path(__file__).parent.joinpath(*PACKAGES[kind].split(".")[1:])
    for path in package.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(rf'@register\("{kind}", (\S+?)[,)]', text):
            constant = re.search(rf'^{re.escape(name)}\b[^=\n]*= \(?"([^"]+)"', text, re.MULTILINE)
            found.add(constant[1] if constant else name.strip('"'))
    return sorted(found)


def choose(kind: str, name: str, **params: Any) -> Choice:
    """A `Choice` from plain values; ranges are checked by the parameters' `__post_init__`."""
    entry = get(kind, name)
    known = {f.name for f in dataclasses.fields(entry.params)}
    for key in params:
        if key not in known:
            raise UserError(f"{kind}={name} has no parameter {key!r}; it has {', '.join(sorted(known)) or 'none'}")
    hints = get_type_hints(entry.params)
    return Choice(kind, name, entry.params(**{k: _member(kind, k, hints[k], v) for k, v in params.items()}))


def _member(kind: str, key: str, hint: Any, value: Any) -> Any:
    """The enum member that a plain value names; other values as they are."""
    if not (isinstance(hint, type) and issubclass(hint, Enum)) or isinstance(value, hint):
        return value
    try:
        return hint(value)
    except ValueError:
        known = ", ".join(str(m.value) for m in hint)
        raise UserError(f"{kind}.{key} must be one of {known}, got {value!r}") from None


def changes(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Differences of two nested mappings: (`packages.torch`, old value, new value) of each, None where a side has none."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [c for key in keys for c in changes(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))]
    return [] if old == new else [(path, old, new)]


def choice_text(value: Any) -> str:
    """A choice of a configuration in short: `match_rate(tau=0.5, mode=coupled)`, `fixed(2)`, `never`; others as they are.

    Parameters without a name stand alone: `temperature=1.0, top_k=0`. None is `none`.
    """
    if not isinstance(value, Mapping):
        return "none" if value is None else str(value)
    name = value.get("name")
    said = {k: v if isinstance(v, str) else json.dumps(v) for k, v in value.items() if k != "name"}
    inside = said.values() if name and len(said) == 1 else (f"{k}={v}" for k, v in said.items())
    return ", ".join(inside) if name is None else f"{name}({', '.join(inside)})" if said else str(name)


def plain(value: Any) -> Any:
    """Dataclasses, enums and tuples as dicts, values and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "value") and hasattr(type(value), "__members__"):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
