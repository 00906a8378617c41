"""Decodes stage by stage: the pictures that the runner kept (`images/<cell>/<label>_<seed>_stages.png`), and their numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sdvar_exp.report.page.markup import part
from sdvar_exp.report.page.pictures import fit
from sdvar_exp.report.source import Tables, of_cell
from sdvar_exp.store.images import STAGE_COLOURS

BUDGET = 4_500_000
NAME = re.compile(r"(\d+)_(\d+)_stages\.png")
FACTS = ("source", "passed", "accepted_share", "match_rate", "one_minus_tv", "token_agreement")
MEANING = {
    "kept": "kept: the draft's token is committed",
    "replaced": "replaced: another token is committed",
    "target": "the target sampled the stage alone",
    "draft": "the draft's, committed without a verdict",
}


@dataclass(frozen=True)
class Walks:
    """cells: that have any. data: one entry per decode. pictures: data URLs by key."""

    cells: tuple[str, ...]
    data: list[dict[str, Any]]
    pictures: dict[str, str]


def collect(folder: Path, tables: Tables, summary: pd.DataFrame) -> Walks:
    """Every decode with a stage picture, in plan order; at first one of each cell, as long as the budget lasts."""
    found: list[tuple[int, str, int, int, Path]] = []
    for cell in summary["cell"]:
        units = sorted(
            (int(m[1]), int(m[2]), path) for path in (folder / cell).glob("*_stages.png") if (m := NAME.fullmatch(path.name))
        )
        found += [(rank, cell, *unit) for rank, unit in enumerate(units)]
    found.sort(key=lambda one: one[0])
    pictures = fit([(_key(cell, label, seed), path) for _, cell, label, seed, path in found], BUDGET)
    data = []
    for _, cell, label, seed, _ in found:
        rows = of_cell(tables.stages, cell)
        rows = rows[(rows["label"] == label) & (rows["seed"] == seed)].sort_values("stage") if len(rows) else rows
        if len(rows) and _key(cell, label, seed) in pictures:
            columns = [c for c in FACTS if c in rows]
            steps = [{c: _plain(row[c]) for c in columns} for row in rows.to_dict("records")]
            trace = _trace(tables, cell, label, seed)
            data.append({"cell": cell, "label": label, "seed": seed, "stages": steps, "trace": trace})
    return Walks(tuple(dict.fromkeys(str(one["cell"]) for one in data)), data, pictures)


def legend() -> str:
    """Colours of the token maps."""
    return part("colours", kinds=[(colour, MEANING[kind]) for kind, colour in STAGE_COLOURS.items()])


def note(walks: Walks) -> str:
    """One sentence about what is missing, where something is."""
    return part("stages", walks=walks.data)


def _key(cell: str, label: int, seed: int) -> str:
    return f"{cell}/{label}_{seed}_stages"


def _trace(tables: Tables, cell: str, label: int, seed: int) -> str | None:
    rows = of_cell(tables.samples, cell)
    rows = rows[(rows["label"] == label) & (rows["seed"] == seed)]
    value = rows["gamma_trace"].iloc[0] if len(rows) and "gamma_trace" in rows else None
    return None if pd.isna(value) else str(value)


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return float(f"{value:.4g}") if isinstance(value, float) else bool(value) if not isinstance(value, str) else value
