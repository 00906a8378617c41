"""Decodes stage by stage: the pictures that the runner kept (`images/<cell>/<label>_<seed>_stages.png`), and their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sdvar_exp.report.page.markup import part
from sdvar_exp.report.page.pictures import fit
from sdvar_exp.report.source import Tables, of_unit
from sdvar_exp.store.images import STAGE_COLOURS, unit_images

BUDGET = 4_500_000
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
        found += [(rank, cell, *unit) for rank, unit in enumerate(unit_images(folder / cell, "_stages"))]
    found.sort(key=lambda one: one[0])
    pictures = fit([(_key(cell, label, seed), path) for _, cell, label, seed, path in found], BUDGET)
    data = []
    for _, cell, label, seed, _ in found:
        rows = of_unit(tables.stages, cell, label, seed)
        if len(rows) and _key(cell, label, seed) in pictures:
            columns = [c for c in FACTS if c in rows]
            steps = [{c: _plain(row[c]) for c in columns} for row in rows.sort_values("stage").to_dict("records")]
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
    rows = of_unit(tables.samples, cell, label, seed)
    value = rows["gamma_trace"].iloc[0] if len(rows) and "gamma_trace" in rows else None
    return None if pd.isna(value) else str(value)


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return float(f"{value:.4g}") if isinstance(value, float) else bool(value) if not isinstance(value, str) else value
