"""Designs: which combinations of the swept values become cells, and which of them a rule leaves out, with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from sdvar_exp.config.composing import Tree, shown
from sdvar_exp.config.folder import CELL_GROUPS, own_key
from sdvar_exp.config.overrides import Item, Known, product
from sdvar_exp.config.reading import SPELLINGS
from sdvar_exp.errors import UserError
from sdvar_exp.words import choices_text, count, did_you_mean

RULES = ("exclude", "require")
Axes = Mapping[str, Sequence[Item]]
Combination = dict[str, Item]


def swept(axes: Axes) -> dict[str, Sequence[Item]]:
    """The keys with more than one value."""
    return {key: items for key, items in axes.items() if len(items) > 1}


def zipped(axes: Axes) -> list[Combination]:
    """First value with first value, second with second; keys with one value are the same everywhere."""
    lengths = {key: len(items) for key, items in swept(axes).items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} has {n} values" for key, n in lengths.items())
        raise UserError(f"design=zip needs sweeps of one length, but {listed}")
    count = max(lengths.values(), default=1)
    return [{key: items[i if len(items) > 1 else 0] for key, items in axes.items()} for i in range(count)]


def one_factor_at_a_time(axes: Axes) -> list[Combination]:
    """The base, the first value of every key; then every other value alone in its place."""
    base = {key: items[0] for key, items in axes.items()}
    return [base, *({**base, key: item} for key, items in axes.items() for item in items[1:])]


def leave_one_out(axes: Axes) -> list[Combination]:
    """The last value of every key; then each key that has two values back at its first."""
    for key, items in axes.items():
        if len(items) > 2:
            raise UserError(f"design=leave_one_out takes two values of a key, without and with, but {key} has {len(items)}")
    everything = {key: items[-1] for key, items in axes.items()}
    return [everything, *({**everything, key: items[0]} for key, items in swept(axes).items())]


def single(axes: Axes) -> list[Combination]:
    """One combination; a sweep is a mistake."""
    if found := ", ".join(swept(axes)):
        raise UserError(f"design=list takes the rows of cells as they are, but {found} is swept; use another design")
    return list(product(axes))


DESIGNS = {
    "product": lambda axes: list(product(axes)),
    "zip": zipped,
    "list": single,
    "ofat": one_factor_at_a_time,
    "leave_one_out": leave_one_out,
}


def describe(name: str, axes: Sequence[Axes]) -> str:
    """`ofat over mask (2), gamma.value (3)`; axes: of every row of `cells`."""
    counts: dict[str, int] = {}
    for row in axes:
        for key, items in swept(row).items():
            counts[key] = max(counts.get(key, 0), len(items))
    over = ", ".join(f"{key} ({n})" for key, n in counts.items())
    rows = f", {len(axes)} rows of cells" if len(axes) > 1 else ""
    return f"{name}{f' over {over}' if over else ''}{rows}"


@dataclass
class Rule:
    """`exclude` leaves out the combinations in which every key has one of its values, `require` all others.

    hits: how many it left out.
    """

    wanted: Mapping[str, tuple[Any, ...]]
    reason: str
    kind: str = "exclude"
    hits: int = field(default=0, compare=False)

    def leaves_out(self, items: Mapping[str, Item], tree: Tree | None) -> bool:
        """Whether the rule leaves a combination out; before composition (no tree) only where its overrides say all."""
        if tree is None and not self.wanted.keys() <= items.keys():
            return False
        held = all(self._has(key, values, items, tree) for key, values in self.wanted.items())
        return held == (self.kind == "exclude")

    def _has(self, key: str, values: tuple[Any, ...], items: Mapping[str, Item], tree: Tree | None) -> bool:
        if key in items:
            found = items[key].value
        elif tree is None:
            return False
        else:
            found = tree.choices.get(key) if key in CELL_GROUPS else OmegaConf.select(tree.cfg, key)
        found = plainly(found)
        return found in values or (isinstance(found, bool) and any(SPELLINGS.get(v) is found for v in values))

    @property
    def text(self) -> str:
        """`strategy=test3 mask=no_prefix`."""
        return " ".join(f"{key}={','.join(map(str, values))}" for key, values in self.wanted.items())

    def notice(self) -> str:
        """A sentence: the combinations that the rule left out, or that it did nothing."""
        if not self.hits:
            return f"{self.kind} {self.text}: {'no' if self.kind == 'exclude' else 'every'} combination has this"
        return (
            f"{count(self.hits, 'combination')} left out: {'' if self.kind == 'exclude' else 'not '}{self.text}: {self.reason}"
        )


def plainly(value: Any) -> Any:
    """A value to compare: enums by their value, quoted text as text."""
    value = getattr(value, "value", getattr(value, "text", value))
    return value if isinstance(value, bool | int | float | None) else str(value)


def read_rules(kind: str, value: Any, known: Known) -> list[Rule]:
    """The root keys `exclude` and `require`: lists of {key: value or list of values, …, reason: text}; else `UserError`."""
    form = f"{kind} is a list of {{key: value, …, reason: why}}"
    if not isinstance(value, list) or not all(isinstance(rule, dict) for rule in value):
        raise UserError(f"{form}, not {shown(value)}")
    rules = []
    for rule in value:
        reason = rule.get("reason")
        wanted = {(own := own_key(str(key))): _values(kind, own, v, known) for key, v in rule.items() if key != "reason"}
        if not isinstance(reason, str) or not reason.strip():
            raise UserError(f"{form}: {shown(rule)} says no reason")
        if not wanted:
            raise UserError(f"{form}: {shown(rule)} names no key")
        for key in wanted:
            if key.split(".")[0] not in (*CELL_GROUPS, "batch") or ("." in key and key not in known.parameters()):
                raise UserError(f"{kind}: unknown key {key!r} of a cell{known.suggest(key)}")
        rules.append(Rule(wanted, reason.strip(), kind))
    return rules


def _values(kind: str, key: str, value: Any, known: Known) -> tuple[Any, ...]:
    """The values that a rule names; of a group, the choices."""
    listed = value if isinstance(value, list) else [value]
    return tuple(_choice(kind, key, v, known) if key in CELL_GROUPS else plainly(v) for v in listed)


def _choice(kind: str, group: str, value: Any, known: Known) -> str:
    name = known.choice(group, value)
    if name is None:
        names, word = known.names(group), "null" if value is None else str(value)
        raise UserError(f"{kind}: unknown {group} {word!r}{did_you_mean(word, names) or '; ' + choices_text(names)}")
    return name


def excluded(rules: Sequence[Rule], items: Mapping[str, Item], tree: Tree | None) -> bool:
    """Whether a rule leaves the combination out; the first that does counts it."""
    rule = next((rule for rule in rules if rule.leaves_out(items, tree)), None)
    if rule is not None:
        rule.hits += 1
    return rule is not None
