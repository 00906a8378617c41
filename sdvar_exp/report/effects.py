"""Effect of each factor: paired differences between cells that differ in it alone, averaged over such pairs.

A unit is (label, seed). For a change of one factor, e.g. mask block_causal → block_diagonal, every pair of cells that agree
in all else gives one difference per unit; these are averaged over the pairs first, because pairs share the unit's noise,
so that n counts units. Labels are strata. p values are of sign flips, corrected after Holm over the rows of one metric.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations
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

Config = dict[str, Any]
Level = tuple[str, str, float | None]
"""Factor, its value as text, and as a number if it is one."""


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
    configs, reference = _configs(tables)
    changes: dict[str, dict[tuple[Level, Level], list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
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
    chosen = {factor: _from_reference(found, _level_of(own, factor, varying)) for factor, found in changes.items()}
    rows = [row for factor, found in changes.items() for row in _rows(factor, found, chosen[factor], samples, level, most)]
    out = pd.DataFrame(rows, columns=list(COLUMNS))
    out.attrs["changes"] = sum(map(len, chosen.values()))
    for m in drawn():
        own = out["metric"] == m.name
        out.loc[own, "p_holm"] = holm(out.loc[own, "p"].tolist())
    return out


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
    """Parameters of each (group, name) that take several values in the study."""
    values: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for config in configs.values():
        for group, choice in config.items():
            if isinstance(choice, Mapping) and "name" in choice:
                for key, value in choice.items():
                    values[group, choice["name"]][key].add(json.dumps(value))
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
    return factor, text, number


def _text(group: str, choice: Mapping[str, Any], varying: Mapping[tuple[str, str], set[str]]) -> str:
    shown = [f"{k}={choice[k]}" for k in sorted(varying.get((group, choice["name"]), ()))]
    return choice["name"] + (f"({', '.join(shown)})" if shown else "")


def _from_reference(found: Mapping[tuple[Level, Level], list[tuple[str, str]]], own: Level | None) -> list[tuple[Level, Level]]:
    """Changes from `own`, the reference's value, or, where no cell can be compared with that, from the value that most can."""
    partners: dict[Level, int] = defaultdict(int)
    for a, b in found:
        partners[a] += 1
        partners[b] += 1
    start = own if own in partners else max(partners, key=lambda one: partners[one])  # the first of equals
    return [(b, a) if b == start else (a, b) for a, b in found if start in (a, b)]


def _rows(
    factor: str,
    found: Mapping[tuple[Level, Level], list[tuple[str, str]]],
    chosen: list[tuple[Level, Level]],
    samples: Mapping[str, pd.DataFrame],
    level: float,
    most: int | None,
) -> list[dict[str, Any]]:
    if most is not None and len(chosen) > most:
        chosen = [chosen[i] for i in spread(range(len(chosen)), most)]
    rows = []
    for start, end in chosen:
        flipped = (start, end) not in found
        cells = found[(end, start) if flipped else (start, end)]
        pairs = [(y, x) if flipped else (x, y) for x, y in cells]
        for m in drawn():
            units = _differences(m, pairs, samples)
            if units.empty:
                continue
            mean = mean_interval(units.to_numpy(), units.index.get_level_values("label").to_numpy(), level)
            p = sign_flip(units.to_numpy())
            values = [mean.mean, mean.low, mean.high]
            if m.ratio:
                values = [None if v is None else float(np.exp(v)) for v in values]
            rows.append(
                dict(
                    zip(COLUMNS, (factor, f"{start[1]} → {end[1]}", m.name, *values, p, None, len(pairs), mean.n), strict=True)
                )
            )
    return rows


def _differences(metric: Metric, pairs: list[tuple[str, str]], samples: Mapping[str, pd.DataFrame]) -> pd.Series:
    """Per unit the mean over pairs of second − first, of logarithms for ratios; units that every pair has."""
    found: list[pd.Series] = []
    for a, b in pairs:
        if metric.name not in samples[a] or metric.name not in samples[b]:
            return pd.Series(dtype=float)
        one, other = (numbers(samples[c][metric.name]) for c in (a, b))
        if metric.ratio:
            one, other = np.log(one), np.log(other)
        found.append((other - one).rename(str(len(found))))
    return pd.concat(found, axis=1).dropna().mean(axis=1)
