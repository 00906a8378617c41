"""The command line: parsed, checked key by key and expanded, before anything is composed."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, Quote, QuotedString, RangeSweep, Sweep, ValueType
from hydra.errors import HydraException

from sdvar_exp import registry
from sdvar_exp.config import folder
from sdvar_exp.config.errors import ConfigErrors, complaint, one_line
from sdvar_exp.config.folder import CELL_GROUPS, GROUPS, own_key
from sdvar_exp.config.schema import ModelNode, Root, TrackingNode
from sdvar_exp.config.template import parameters
from sdvar_exp.errors import UserError
from sdvar_exp.words import choices_text, did_you_mean, nearest

HYDRA_ALLOWED: Mapping[str, Callable[[Any], bool] | None] = {
    "hydra.searchpath": None,  # checked when it is used
    "hydra.verbose": lambda value: isinstance(value, bool | str) or (isinstance(value, list) and bool(value)),
    "hydra.mode": lambda value: str(value).upper() in ("RUN", "MULTIRUN"),
}
HYDRA_MEANS = {"hydra.verbose": "true, false or the name of a logger", "hydra.mode": "RUN or MULTIRUN"}
MOST_CHARACTERS, MOST_COMMAS, MOST_DEPTH = 20_000, 1_000, 12
"""Of one word of the command line: Hydra's parser takes a time that grows with the square of the length of a list."""
MOST_VALUES = 100_000  # of one sweep
MOST_COMBINATIONS = 20_000  # of swept values in one command
BARE = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
RESERVED = ("null", "true", "false", "inf", "nan")
PARSER = OverridesParser.create()


@dataclass(frozen=True)
class Item:
    """One override after expansion of sweeps: a key and a single value. swept: whether it came of a sweep."""

    key: str
    text: str
    override: Override = field(compare=False)
    swept: bool = False

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
    """All that can be chosen and set: options of each group, and every key. bad: groups with an unknown choice so far."""

    extra: Path | None = None
    bad: set[str] = field(default_factory=set)
    _names: dict[str, list[str]] = field(default_factory=dict)
    _root_keys: list[str] = field(default_factory=list)

    def names(self, group: str) -> list[str]:
        if group not in self._names:
            self._names[group] = folder.names(group, self.extra)
        return self._names[group]

    def choice(self, group: str, value: Any) -> str | None:
        """The choice of a group that a parsed value names, also where Hydra reads its name as a number or truth value."""
        known = self.names(group)
        if isinstance(value, str):
            return value if value in known else None
        if value is None and group == "experiment":
            return None
        return next((name for name in known if repr(_parsed(name)) == repr(value)), None)

    def root_keys(self) -> list[str]:
        """Root keys that are no groups, with nested ones in full."""
        if not self._root_keys:
            hints = typing.get_type_hints(Root)
            for f in dataclasses.fields(Root):
                if f.name in GROUPS:
                    continue
                self._root_keys.append(f.name)
                if dataclasses.is_dataclass(hints[f.name]):
                    self._root_keys += [f"{f.name}.{g.name}" for g in dataclasses.fields(hints[f.name])]
        return self._root_keys

    def parameters(self) -> list[str]:
        """`group.parameter` of every registered entry and of the other groups' schemas."""
        nodes: list[tuple[str, type]] = [("model", ModelNode), ("tracking", TrackingNode)]
        nodes += [(k, registry.get(k, n).params) for k in registry.KINDS for n in registry.names(k)]
        from sdvar_exp.cell import Sampling

        nodes.append(("sampling", Sampling))
        return list(dict.fromkeys(f"{group}.{f.name}" for group, cls in nodes for f in dataclasses.fields(cls)))

    def suggest(self, key: str) -> str:
        """A guess at what an unknown key was meant to be, or whose parameter it is."""
        keys = [*GROUPS, *self.root_keys(), *self.parameters()]
        group, dot, rest = key.partition(".")
        if dot and group in GROUPS:
            near = nearest(rest, own := [k.partition(".")[2] for k in keys if k.startswith(f"{group}.")])
            return owners_text(key) if rest in own or not near else f"; did you mean '{group}.{near}'?"
        last = {k.rpartition(".")[2]: k for k in reversed(keys)}
        word = key.rpartition(".")[2]
        guess = last.get(word) or nearest(key, keys) or last.get(nearest(word, last) or "")
        return f"; did you mean {guess!r}?" if guess else ""


def owners_text(key: str) -> str:
    """`; tau is of acceptance=kl, acceptance=match_rate`: of which choices a parameter is; empty where of none."""
    group, _, word = key.partition(".")
    owners = [n for n in registry.names(group) if word in parameters(group, n)] if group in registry.KINDS else []
    return f"; {word} is of {', '.join(f'{group}={owner}' for owner in owners[:3])}" if owners else ""


def quoted(text: object) -> str:
    """A value that Hydra's grammar reads as this text, whatever is in it."""
    escaped = re.sub(r"(\\*)(?='|\Z)", r"\1\1", str(text)).replace("'", r"\'")
    return "'" + escaped.replace("${", r"\${") + "'"


def parse(texts: Iterable[str], errors: list[str]) -> list[Override]:
    """Overrides in Hydra's grammar; unreadable ones become errors."""
    out = []
    for text in map(own_key, texts):
        if not text.strip():
            continue
        if problem := check_size(text):
            errors.append(problem)
            continue
        if "=" not in text and not text.startswith("~"):
            errors.append(f"cannot read {text!r}: write key=value")
            continue
        try:
            (override,) = PARSER.parse_overrides([_with_tildes(text)])
        except (HydraException, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            errors.append(f"cannot read {text!r}{complaint(text, error)}; quote values that hold special characters")
            continue
        override.input_line = text
        if problem := check_value(override):
            errors.append(problem)
        else:
            out.append(override)
    return out


def check_size(text: str) -> str | None:
    """Names the fault in the size of a word, before it is parsed."""
    depth = deepest = 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        deepest = max(deepest, depth)
    if len(text) <= MOST_CHARACTERS and text.count(",") <= MOST_COMMAS and deepest <= MOST_DEPTH:
        return None
    return f"{text[:40]}…: too long or too deeply nested for the command line; write it into an experiment yaml"


def check_value(override: Override) -> str | None:
    """Names the fault in a parsed value whatever its key is: sweeps inside of it, `???`."""
    value = override._value
    if isinstance(value, ChoiceSweep):
        value = value.list
        inner = any(_holds(v, (Sweep, Glob)) for v in value)
    else:
        inner = isinstance(value, list | dict) and _holds(value, (Sweep, Glob))
    if inner:
        return f"{override.input_line}: a sweep inside of a value cannot be expanded; list the values"
    if _holds(value, (str, QuotedString), "???"):
        return f"{override.input_line}: ??? stands for a value that is missing; give one"
    return None


def _holds(value: Any, kinds: tuple[type, ...], text: str | None = None) -> bool:
    """Whether a value, or one inside of it, is of one of these classes and, if given, of this text."""
    if isinstance(value, list | dict):
        return any(_holds(v, kinds, text) for v in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, kinds) and text in (None, getattr(value, "text", value))


def _with_tildes(text: str) -> str:
    """Words with a ~ in quotes, as in `results_dir=~/x`: the code knows home folders, Hydra's grammar does not."""
    key, equals, value = text.partition("=")
    pieces = re.split(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", value)
    bare = r"(?=\S)[^,\[\](){}:]*~[^,\[\](){}]*(?<!\s)"
    pieces[::2] = [re.sub(bare, lambda m: QuotedString(m[0], Quote.single).with_quotes(), piece) for piece in pieces[::2]]
    return key + equals + "".join(pieces)


def _parsed(text: str) -> Any:
    """The value that Hydra reads in a bare word; the word itself where it reads none."""
    try:
        return PARSER.parse_rule(text, "primitive")
    except HydraException:
        return text


def choice_text(group: str, name: str) -> str:
    """`group=name`, in quotes where Hydra would read the name as something else."""
    bare = BARE.fullmatch(name) and name.lower() not in RESERVED
    return f"{group}={name if bare else QuotedString(name, Quote.single).with_quotes()}"


def unquoted(value: str) -> str:
    """The name in a text of `choice_text`."""
    return value[1:-1].replace("\\'", "'") if value.startswith("'") else value


def expand(override: Override, known: Known, errors: list[str]) -> list[Item]:
    """One `Item` per value of a sweep, one in all for a plain override."""
    key, value, line = override.key_or_group, override._value, str(override.input_line)
    if not override.is_sweep_override():
        typed = line.partition("=")[2].strip()
        name = known.choice(key, typed if typed in known.names(key) else _plainly(value)) if key in GROUPS else None
        if name is not None:
            line = choice_text(override.get_key_element(), name)
            override = replace(override, _value=name)
        return [Item(key, line, override)]
    if override.value_type is ValueType.INTERVAL_SWEEP:
        errors.append(f"{line}: an interval needs an optimising sweeper (hydra/sweeper=…); list the values instead")
        return []
    if isinstance(value, Glob):
        if key not in GROUPS:
            errors.append(f"{line}: glob is for groups: {', '.join(GROUPS)}")
            return []
        values: list[Any] = value.filter(known.names(key))
        if not values:
            errors.append(f"{line}: no {key} is called like that; {choices_text(known.names(key))}")
    else:
        try:
            ordered = value.range() if isinstance(value, RangeSweep) else iter(value.list)  # type: ignore[union-attr]
            values = list(islice(ordered, MOST_VALUES + 1))
        except (HydraException, ValueError, TypeError, ArithmeticError) as error:
            errors.append(f"{line}: cannot be counted out ({one_line(error)}); list the values")
            return []
        if not values:
            errors.append(f"{line}: has no value")
    if len(values) > MOST_VALUES:
        errors.append(f"{line}: has more than {MOST_VALUES} values; give fewer")
        return []
    bare = _all_bare(override, len(values))
    prefix, out = override.get_key_element(), []
    for i, one in enumerate(values):
        text = f"{prefix}={Override._get_value_element_as_str(one)}"
        if key in GROUPS and (name := known.choice(key, bare[i] if bare and bare[i] in known.names(key) else _plainly(one))):
            text, one = choice_text(prefix, name), name
        single = replace(override, _value=one, value_type=ValueType.ELEMENT, input_line=text)
        out.append(Item(key, text, single, swept=True))
    return out


def for_hydra(texts: Iterable[str], known: Known) -> list[str]:
    """The same words for a command line that Hydra itself reads: names of choices and words with a ~ in quotes, and `++` before
    settings of the reference, keys that the config lacks. Raises `ConfigErrors` for what cannot be read.
    """
    errors, out = list[str](), list[str]()
    for override in parse(texts, errors):
        listed = override.value_type in (ValueType.ELEMENT, ValueType.SIMPLE_CHOICE_SWEEP) and override.key_or_group in GROUPS
        items = expand(override, known, errors) if listed else []
        if override.key_or_group == "experiment" and items and items[0].value is None:  # Hydra wants a name
            continue
        values = ",".join(item.text.partition("=")[2] for item in items)
        word = f"{override.get_key_element()}={values}" if items else _with_tildes(str(override.input_line))
        out.append(f"++{word}" if word.startswith("reference.") else word)
    if errors:
        raise ConfigErrors(errors)
    return out


def _all_bare(override: Override, number: int) -> list[str]:
    """The values of a comma-separated sweep as they are typed; none where they cannot be told apart by their commas."""
    typed = [word.strip() for word in str(override.input_line).partition("=")[2].split(",")]
    return typed if override.value_type is ValueType.SIMPLE_CHOICE_SWEEP and len(typed) == number else []


def _plainly(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value


def check(item: Item, known: Known) -> str | None:
    """The fault of the key, or of the choice of a group, in one line; None if there is none."""
    override, key = item.override, item.key
    if override.package is not None:
        return f"{item.text}: packages (@) are not used here; write {key}=…"
    if key.startswith(("hydra.", "hydra/")) or key == "hydra":
        return _check_hydra(item, key)
    root = key.split(".")[0]
    if part := re.match(r"model\.(vae|draft|target)\.", key):
        return f"unknown key {key!r}; did you mean '{part[0]}dtype'?"
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


def _check_hydra(item: Item, key: str) -> str | None:
    if key.startswith("hydra.sweeper.params"):
        swept = key.removeprefix("hydra.sweeper.params").lstrip(".") or "KEY"
        return f"{key} belongs into an experiment yaml; on the command line write {swept}=…"
    if key in HYDRA_ALLOWED:
        fits = HYDRA_ALLOWED[key]
        return None if fits is None or fits(item.value) else f"{key} must be {HYDRA_MEANS[key]}, got {item.value!r}"
    if key.startswith(("hydra/launcher", "hydra.launcher", "hydra/sweeper")):
        return f"{key}: Hydra's own sweepers and launchers belong to `sdvar-exp run`, on the command line"
    return f"{key} has no effect here: nothing is written outside results_dir; remove it"


def _check_choice(item: Item, known: Known) -> str | None:
    """The value of a group is the name of one of its options."""
    group, value = item.key, item.value
    names = known.names(group)
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
    hint = did_you_mean(word, names) or f"; {choices_text(names)}"
    if group == "gamma" and isinstance(value, int) and not isinstance(value, bool):
        hint = f"; did you mean gamma.value={value}?"
    elif "did you mean" not in hint and group not in ("debug", "engine"):
        ways = ["--config-dir FOLDER"] if known.extra is None else []
        ways += ["--plugin MODULE"] if group in registry.KINDS else []
        hint += f"; one of your own needs {' or '.join(ways)}" if ways else ""
    return f"unknown {group} {word!r}{hint}"


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
    size = prod(len(items) for items in axes.values())
    if size > MOST_COMBINATIONS:
        raise UserError(f"these are {size} combinations, more than {MOST_COMBINATIONS}: give several commands")
    jobs: list[dict[str, Item]] = [{}]
    for key, items in axes.items():
        jobs = [{**job, key: item} for job in jobs for item in items]
    return iter(jobs)
