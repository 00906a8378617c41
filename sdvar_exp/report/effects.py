"""Effect of each factor, and interactions of two: paired differences between cells that differ in them alone.

A unit is (label, seed). For a change of one factor, e.g. mask block_causal → block_diagonal, every pair of cells that agree
in all else gives one difference per unit; these are averaged over the pairs first, because pairs share the unit's noise,
so that n counts units. Labels are strata. p values are of sign flips, corrected after Holm over the rows of one metric.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from sdvar_exp.metrics.permutation import holm, sign_flip
from sdvar_exp.metrics.quantities import HEADLINES, Metric, headline, metrics
from sdvar_exp.metrics.statistics import mean_interval
from sdvar_exp.registry import declared
from sdvar_exp.report.material import spread
from sdvar_exp.report.source import Tables, numbers, with_rates

COLUMNS = ("factor", "change", "metric", "effect", "low", "high", "p", "p_holm", "pairs", "n")
INTERACTIONS = ("factor", "change", "by", "by_change", "metric", "effect", "low", "high", "p", "p_holm", "squares", "n")
ROUNDING = 1e-12
"""Of the values that are summed: what a sum of them that should be 0 may be."""

Config = dict[str, Any]
Level = tuple[str, str, float | None]
"""Factor, its value as text, and as a number if it is one."""
Change = tuple[Level, Level]
Pairs = list[tuple[str, str]]
Changes = dict[str, dict[Change, Pairs]]
"""By factor and change of it, the pairs of cells that differ in it alone."""
Samples = Mapping[str, pd.DataFrame]
"""By cell, its rows by (label, seed)."""


def drawn() -> list[Metric]:
    """Metrics whose effects are computed: the three headlines, then those of users."""
    return [*map(headline, HEADLINES), *(m for m in metrics() if m.drawn and not m.headline)]


def effects(tables: Tables, level: float = 0.95, most: int | None = None) -> pd.DataFrame:
    """One row per change of a factor and metric, columns `COLUMNS`; effects of ratios are ratios, of the rest differences.

    Each factor is changed from the value that the study's reference has; where the reference lacks it, from the value that
    most others can be compared with, of equals the first or the smallest. The reference's own speed-up is 1 by definition,
    whatever its A/A timing gave. most: of a factor with more changes than this, so many are computed, evenly spread over its
    values; `attrs["changes"]` of the table counts all.
    """
    changes, own, samples = _changes(tables)
    chosen = {factor: _from_reference(found, own[factor]) for factor, found in changes.items()}
    rows = [
        {"factor": factor, "change": _words(change), "pairs": len(found[change]), **row}
        for factor, found in chosen.items()
        for change in _at_most(list(found), most)
        for row in _rows([{b: 1, a: -1} for a, b in found[change]], samples, level)
    ]
    return _corrected(rows, COLUMNS, sum(map(len, chosen.values())))


def interactions(tables: Tables, level: float = 0.95, most: int | None = None) -> pd.DataFrame:
    """One row per pair of changes of two factors and metric, columns `INTERACTIONS`: whether one depends on the other.

    A square is four cells that agree in all else, a and b at the two values of `factor`, c and d the same at the other value
    of `by`. effect: (d − c) − (b − a), the change under `by`'s second value less that under its first; of ratios (d/c)/(b/a),
    so that none is 0, or 1. It is averaged over the squares within each unit, n counts units, p_holm is over all pairs of
    changes of a metric. Factors are changed as in `effects`. most: so many pairs of changes are computed, evenly spread over
    them; `attrs["changes"]` of the table counts all that have a square.
    """
    changes, own, samples = _changes(tables)
    squares: dict[tuple[str, Change, str, Change], list[dict[str, int]]] = {}
    for one, other in combinations(changes, 2):
        both = _cells(changes[one]) & _cells(changes[other])  # others are in no square, and do not say where changes start
        first, second = (_from_reference(_among(changes[factor], both), own[factor]) for factor in (one, other))
        for (change, pairs), (by, others) in product(first.items(), second.items()):
            if found := _squares(pairs, others):
                squares[one, change, other, by] = found
    rows = [
        {"factor": one, "change": _words(change), "by": other, "by_change": _words(by), "squares": len(squares[key]), **row}
        for key in _at_most(list(squares), most)
        for one, change, other, by in [key]
        for row in _rows(squares[key], samples, level)
    ]
    return _corrected(rows, INTERACTIONS, len(squares))


def _cells(found: Mapping[Change, Pairs]) -> set[str]:
    return {cell for pairs in found.values() for pair in pairs for cell in pair}


def _among(found: Mapping[Change, Pairs], cells: set[str]) -> dict[Change, Pairs]:
    """The pairs whose cells are both among these."""
    kept = {change: [pair for pair in pairs if cells.issuperset(pair)] for change, pairs in found.items()}
    return {change: pairs for change, pairs in kept.items() if pairs}


def _squares(pairs: Pairs, others: Pairs) -> list[dict[str, int]]:
    """The sign of each cell in (d − c) − (b − a), for pairs (a, b) and (c, d) of one change whose ends differ by the other."""
    ends: dict[str, list[str]] = defaultdict(list)
    for a, c in others:
        ends[a].append(c)
    known = set(pairs)
    return [{d: 1, c: -1, b: -1, a: 1} for a, b in pairs for c in ends[a] for d in ends[b] if (c, d) in known]


def _corrected(rows: list[dict[str, Any]], columns: tuple[str, ...], changes: int) -> pd.DataFrame:
    """Rows as a table, with Holm's correction over those of each metric; `attrs["changes"]` says how many there could be."""
    out = pd.DataFrame(rows, columns=list(columns))
    out.attrs["changes"] = changes
    for m in drawn():
        own = out["metric"] == m.name
        out.loc[own, "p_holm"] = holm(out.loc[own, "p"].tolist())
    return out


def _at_most(found: list[Any], most: int | None) -> list[Any]:
    return found if most is None else [found[i] for i in spread(range(len(found)), most)]


def _words(change: Change) -> str:
    return f"{change[0][1]} → {change[1][1]}"


def _changes(tables: Tables) -> tuple[Changes, dict[str, Level | None], Samples]:
    """Every change of one factor with the pairs of cells that show it, the reference's level of each factor, and the rows of
    each cell."""
    configs, reference = _configs(tables)
    changes: Changes = defaultdict(lambda: defaultdict(list))
    varying = _varying(configs)
    met: dict[Level, float] = {}  # numbers go upwards, other values in the order in which they are met
    for (a, one), (b, other) in combinations(configs.items(), 2):
        if (found := _single(one, other, varying)) is not None:
            first, second = found
            place = [met.setdefault(one_of, len(met) if one_of[2] is None else one_of[2]) for one_of in found]
            key, cells = ((second, first), (b, a)) if place[1] < place[0] else ((first, second), (a, b))
            changes[first[0]][key].append(cells)
    samples = (
        {cell: own.set_index(["label", "seed"]) for cell, own in with_rates(tables.samples).groupby("cell")}
        if len(configs)
        else {}
    )
    if reference in samples and (speed := headline("speed").name) in samples[reference]:
        samples[reference] = samples[reference].assign(**{speed: samples[reference][speed].where(lambda s: s.isna(), 1.0)})
    own = configs.get(reference, {})
    return changes, {factor: _level_of(own, factor, varying) for factor in changes}, samples


def _configs(tables: Tables) -> tuple[dict[str, Config], str]:
    """Configurations of the cells that have rows, in plan order, and the id of the reference, empty where there are several:
    then each cell is compared with its own, and a pair of references says nothing.
    """
    runs = tables.runs
    if "config" not in runs or "cell" not in tables.samples:
        return {}, ""
    there, references = set(tables.samples["cell"]), set(runs["baseline"])
    reference = next(iter(references)) if len(references) == 1 else ""
    ordered = runs.sort_values("order", kind="stable").to_dict("records")
    configs = {
        r["cell"]: json.loads(r["config"])
        for r in ordered
        if r["cell"] in there and (reference or r["cell"] not in references) and isinstance(r["config"], str)
    }
    return configs, reference


def _level_of(config: Config, factor: str, varying: Mapping[tuple[str, str], set[str]]) -> Level | None:
    """The level of a factor in a configuration; None where it has no such factor."""
    group, dot, key = factor.partition(".")
    choice = config.get(group)
    if choice is None or (dot and (not isinstance(choice, Mapping) or key not in choice)):
        return None
    if group == "strategy" and not dot:
        return factor, choice["name"], None
    if isinstance(choice, Mapping) and not dot:
        return factor, _text(group, choice, varying), None
    return _level(factor, choice[key] if dot else choice)


def _varying(configs: Mapping[str, Config]) -> dict[tuple[str, str], set[str]]:
    """Parameters of each (group, name) that take several values in the study; a group without choices has no name."""
    values: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for config in configs.values():
        for group, choice in config.items():
            if isinstance(choice, Mapping):
                for key, value in choice.items():
                    values[group, choice.get("name", "")][key].add(json.dumps(value))
    return {key: {name for name, seen in params.items() if len(seen) > 1} for key, params in values.items()}


def _single(one: Config, other: Config, varying: Mapping[tuple[str, str], set[str]]) -> tuple[Level, Level] | None:
    """The two levels of the one factor in which the configurations differ; None if they differ in more."""
    names = one["strategy"]["name"], other["strategy"]["name"]
    if one.get("gamma") != other.get("gamma") and all(declared("strategy", name, "loop") for name in names):
        one, other = ({**c, "strategy": {**c["strategy"], "name": names[0]}} for c in (one, other))
        names = names[0], names[0]  # one loop under two names: they differ in the controller
    differing = [g for g in dict.fromkeys([*one, *other]) if one.get(g) != other.get(g)]
    if names[0] != names[1]:  # groups that one of them does not read cannot be equal
        if any(g in one and g in other for g in differing if g != "strategy"):
            return None
        return ("strategy", names[0], None), ("strategy", names[1], None)
    if len(differing) != 1 or differing[0] not in one or differing[0] not in other:
        return None
    group = differing[0]
    a, b = one[group], other[group]
    if not isinstance(a, Mapping):
        return _level(group, a), _level(group, b)
    keys = [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]
    if len(keys) == 1 and keys[0] != "name":
        return _level(f"{group}.{keys[0]}", a.get(keys[0])), _level(f"{group}.{keys[0]}", b.get(keys[0]))
    return (group, _text(group, a, varying), None), (group, _text(group, b, varying), None)


def _level(factor: str, value: Any) -> Level:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    text = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
    return factor, "usual" if value is None else text, number


def _text(group: str, choice: Mapping[str, Any], varying: Mapping[tuple[str, str], set[str]]) -> str:
    name = str(choice.get("name", ""))
    shown = ", ".join(f"{k}={choice[k]}" for k in sorted(varying.get((group, name), ())) if k in choice)
    return f"{name}({shown})" if name and shown else name or shown


def _from_reference(found: Mapping[Change, Pairs], own: Level | None) -> dict[Change, Pairs]:
    """Changes from `own`, the reference's value, or, where no cell can be compared with that, from the value that most can."""
    partners: dict[Level, int] = defaultdict(int)
    for a, b in found:
        partners[a] += 1
        partners[b] += 1
    start = own if own in partners else max(partners, key=lambda one: partners[one], default=None)  # the first of equals
    return {
        (b, a) if b == start else (a, b): [(y, x) for x, y in pairs] if b == start else pairs
        for (a, b), pairs in found.items()
        if start in (a, b)
    }


def _rows(signs: list[dict[str, int]], samples: Samples, level: float) -> Iterator[dict[str, Any]]:
    """A row per metric: mean over units of the contrasts `signs` of cells, with interval and p."""
    for m in drawn():
        units = _contrasts(m, signs, samples)
        if units.empty:
            continue
        mean = mean_interval(units.to_numpy(), units.index.get_level_values("label").to_numpy(), level)
        values = [mean.mean, mean.low, mean.high]
        if m.ratio:
            values = [None if v is None else float(np.exp(v)) for v in values]
        row = dict(zip(("effect", "low", "high"), values, strict=True))
        yield {"metric": m.name, **row, "p": sign_flip(units.to_numpy()), "p_holm": None, "n": mean.n}


def _contrasts(metric: Metric, signs: list[dict[str, int]], samples: Samples) -> pd.Series:
    """Per unit the mean over contrasts of Σ sign · value, of logarithms for ratios; units that every cell has.

    Sums that are nothing but rounding are 0, or a sign flip would count them.
    """
    columns: dict[str, pd.Series] = {}
    for cell in dict.fromkeys(cell for one in signs for cell in one):
        if metric.name not in samples[cell]:
            return pd.Series(dtype=float)
        values = numbers(samples[cell][metric.name])
        columns[cell] = np.log(values) if metric.ratio else values
    known = pd.DataFrame(columns).replace([np.inf, -np.inf], np.nan).dropna()
    found = [sum(sign * known[cell] for cell, sign in one.items()) for one in signs]
    total = pd.concat(found, axis=1).mean(axis=1)
    return total.where(total.abs() > ROUNDING * known.abs().max(axis=1), 0.0)
