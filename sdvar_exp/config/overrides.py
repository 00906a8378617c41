"""The command line: parsed, checked key by key and expanded, before anything is composed."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, ValueType
from hydra.errors import HydraException

from sdvar_exp import registry
from sdvar_exp.config import folder
from sdvar_exp.config.errors import choices_text, did_you_mean, nearest, one_line
from sdvar_exp.config.folder import CELL_GROUPS, GROUPS
from sdvar_exp.config.schema import ModelNode, Root, TrackingNode

HYDRA_ALLOWED = ("hydra.sweeper.params", "hydra.searchpath", "hydra.verbose", "hydra.mode")


@dataclass(frozen=True)
class Item:
    """One override after expansion of sweeps: a key and a single value."""

    key: str
    text: str
    override: Override = field(compare=False)

    @property
    def value(self) -> Any:
        """The value as plain data."""
        return self.override.value()

    @property
    def is_group(self) -> bool:
        return self.key in GROUPS

    @property
    def of_cell(self) -> bool:
        """Whether it belongs to a cell rather than to the study."""
        return self.key.split(".")[0] in (*CELL_GROUPS, "batch")


@dataclass
class Known:
    """What can be chosen and set: options of each group, and every key. bad: groups with an unknown choice so far."""

    extra: Path | None = None
    bad: set[str] = field(default_factory=set)
    _names: dict[str, list[str]] = field(default_factory=dict)

    def names(self, group: str) -> list[str]:
        if group not in self._names:
            self._names[group] = folder.names(group, self.extra)
        return self._names[group]

    def root_keys(self) -> list[str]:
        """Root keys that are no groups, with nested ones in full."""
        out = []
        hints = typing.get_type_hints(Root)
        for f in dataclasses.fields(Root):
            if f.name in GROUPS:
                continue
            out.append(f.name)
            if dataclasses.is_dataclass(hints[f.name]):
                out += [f"{f.name}.{g.name}" for g in dataclasses.fields(hints[f.name])]
        return out

    def parameters(self) -> list[str]:
        """`group.parameter` of every registered entry and of the other groups' schemas."""
        nodes: list[tuple[str, type]] = [("model", ModelNode), ("tracking", TrackingNode)]
        nodes += [(k, registry.get(k, n).params) for k in registry.KINDS for n in registry.names(k)]
        from sdvar_exp.cell import Sampling

        nodes.append(("sampling", Sampling))
        return list(dict.fromkeys(f"{group}.{f.name}" for group, cls in nodes for f in dataclasses.fields(cls)))

    def suggest(self, key: str) -> str:
        """A guess at what an unknown key was meant to be."""
        keys = [*GROUPS, *self.root_keys(), *self.parameters()]
        last = {k.rpartition(".")[2]: k for k in reversed(keys)}
        word = key.rpartition(".")[2]
        guess = last.get(word) or nearest(key, keys) or last.get(nearest(word, last) or "")
        return f"; did you mean {guess!r}?" if guess else ""


def parse(texts: Iterable[str], errors: list[str]) -> list[Override]:
    """Overrides in Hydra's grammar; unreadable ones become errors."""
    parser, out = OverridesParser.create(), []
    for text in texts:
        if not text.strip():
            continue
        if "=" not in text and not text.startswith("~"):
            errors.append(f"cannot read {text!r}: write key=value")
            continue
        try:
            out += parser.parse_overrides([text])
        except HydraException as error:
            reason = one_line(str(error).split("\n")[0]).removeprefix("LexerNoViableAltException: ")
            reason = re.sub(r"(mismatched|no viable alternative at) input '<EOF>'", "something is missing at its end", reason)
            reason = re.sub(r"mismatched input ('.*?') expecting .*", r"\1 in a place where it cannot stand", reason)
            reason = re.sub(r" expecting \{.*", "", reason)
            detail = "" if reason == text or text in reason else f" ({reason})"
            errors.append(f"cannot read {text!r}{detail}; quote values that hold special characters")
    return out


def expand(override: Override, known: Known, errors: list[str]) -> list[Item]:
    """One `Item` per value of a sweep, one in all for a plain override."""
    key = override.key_or_group
    if not override.is_sweep_override():
        return [Item(key, str(override.input_line), override)]
    if override.value_type is ValueType.INTERVAL_SWEEP:
        errors.append(
            f"{override.input_line}: an interval needs an optimising sweeper (hydra/sweeper=…); list the values instead"
        )
        return []
    value = override.value()
    if isinstance(value, Glob):
        if key not in GROUPS:
            errors.append(f"{override.input_line}: glob is for groups: {', '.join(GROUPS)}")
            return []
        texts: Iterable[str] = value.filter(known.names(key))
    else:
        texts = override.sweep_string_iterator()
    prefix = override.get_key_element()
    return [Item(key, f"{prefix}={v}", o) for v in texts for o in parse([f"{prefix}={v}"], errors)]


def check(item: Item, known: Known) -> str | None:
    """What is wrong with the key, or with the choice of a group; None if nothing is."""
    override, key = item.override, item.key
    if override.package is not None:
        return f"{item.text}: packages (@) are not used here; write {key}=…"
    if key.startswith(("hydra.", "hydra/")) or key == "hydra":
        return _check_hydra(key)
    root = key.split(".")[0]
    if root in GROUPS and "." in key:
        if key == f"{root}.name":
            return f"{item.text}: {key} is set by the choice of {root}; write {root}=…"
        if root in ("experiment", "debug"):
            return f"unknown key {key!r}: {root} has no parameters"
        return None  # depends on the choice: checked in the composed cell
    if key in GROUPS:
        return _check_sign(item, key) or _check_choice(item, known)
    if key not in known.root_keys():
        return f"unknown key {key!r}{known.suggest(key)}"
    return _check_sign(item, key)


def _check_sign(item: Item, key: str) -> str | None:
    if item.override.is_delete():
        return f"{item.text}: {key} cannot be removed; write {key}=…"
    if item.override.is_add() and not item.override.is_force_add():
        return f"{item.text}: {key} is there already; write it without +"
    return None


def _check_hydra(key: str) -> str | None:
    if key.startswith(HYDRA_ALLOWED):
        return None
    if key.startswith(("hydra/launcher", "hydra.launcher", "hydra/sweeper")):
        return f"{key}: Hydra's own sweepers and launchers belong to `sdvar-exp run`, on the command line"
    return f"{key} has no effect here: nothing is written outside results_dir; remove it"


def _check_choice(item: Item, known: Known) -> str | None:
    """The value of a group is the name of one of its options."""
    group, value = item.key, item.value
    names = known.names(group)
    if isinstance(value, QuotedString):
        value = value.text
    if value is None and group == "experiment":
        return None
    if isinstance(value, list):
        listed = ",".join(str(v) for v in value)
        return f"{item.text}: {group} takes one name; to sweep over several write {group}={listed}"
    if isinstance(value, dict):
        return f"{item.text}: {group} takes a name; set its parameters with {group}.<parameter>=…"
    if value in names:
        return None
    if group == "mask" and isinstance(value, int) and not isinstance(value, bool):
        for name in registry.names("mask"):
            if registry.get("mask", name).meta.get("code") == value:
                return f"mask={value}: masks are chosen by name; did you mean mask={name}?"
    word = "null" if value is None else str(value)
    return f"unknown {group} {word!r}{did_you_mean(word, names) or '; ' + choices_text(names)}"


def expand_all(texts: Sequence[str], known: Known, errors: list[str]) -> dict[str, list[Item]]:
    """Every key with its values, in order; a later override of one key replaces an earlier one."""
    out: dict[str, list[Item]] = {}
    for override in parse(texts, errors):
        good = []
        for item in expand(override, known, errors):
            problem = check(item, known)
            if problem is None:
                good.append(item)
                continue
            errors.append(problem)
            if item.is_group:
                known.bad.add(item.key)
        if good:
            out[override.key_or_group] = good
    return {key: items for key, items in out.items() if not _hangs_on(key, out, known.bad)}


def _hangs_on(key: str, axes: Mapping[str, Any], bad: set[str]) -> bool:
    """Whether a parameter belongs to a choice that is not known, so that nothing can be said about it."""
    group, dot, _ = key.partition(".")
    if not dot or group not in GROUPS:
        return False
    return group in bad or (group not in axes and bool(bad & {"strategy", "experiment"}))


def product(axes: Mapping[str, Sequence[Item]]) -> Iterator[dict[str, Item]]:
    """Cartesian product of the values of all keys; later keys vary fastest."""
    jobs: list[dict[str, Item]] = [{}]
    for key, items in axes.items():
        jobs = [{**job, key: item} for job in jobs for item in items]
    return iter(jobs)
