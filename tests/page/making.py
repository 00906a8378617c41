"""Studies on disk with rows, times and picture files, without a model: any number of cells and units, any names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdvar_exp.cell import Cell
from sdvar_exp.plan import Plan, PlannedCell, Settings, Timing
from sdvar_exp.registry import choose
from sdvar_exp.runner.measuring.pictures import token_map
from sdvar_exp.store import Study
from sdvar_exp.store.images import write_png
from tests.store.making import opened, timing_body, unit_body

STAGES = 5
HOSTILE = (
    '</script><script>document.title="owned"</script>',
    '"><img src=x onerror=alert(1)>',
    "<!-- & ' \" \\ ${name} $title",
    "γ=2 ∞ 図 ▸ line",
    "a" * 180,
)


def planned(count: int, names: Sequence[str] = ()) -> tuple[PlannedCell, ...]:
    """The baseline a loop that is exact, and loops of different γ and threshold, under the given names or plain ones."""
    cells = [Cell(choose("strategy", "sequential"))]
    for i in range(count - 1):
        tau = round(0.1 + 0.8 * (i // 3) / max(count // 3, 1), 4)
        rule = choose("acceptance", "match_rate", tau=tau) if i else choose("acceptance", "exact")
        gamma = choose("gamma", "fixed", value=2 + i % 3)
        strategy = choose("strategy", "parallel_v1")
        cells.append(Cell(strategy, mask=choose("mask", "block_causal"), acceptance=rule, gamma=gamma))
    plain = ["sequential", "parallel_v1 exact γ=2"]
    plain += [f"parallel_v1 {c.acceptance.params.tau:g} γ={c.gamma.params.value}" for c in cells[2:]]
    named = [*names, *plain[len(names) : count]]
    return tuple(PlannedCell(c, name, ("strategy=parallel_v1", f"note={name}")) for c, name in zip(cells, named, strict=True))


def make_study(
    root: Path,
    cells: int = 4,
    labels: Sequence[int] = (0, 3),
    seeds: int = 4,
    images: bool = True,
    staged: int = 1,
    side: int = 20,
    names: Sequence[str] = (),
    study: str = "made",
    timed: int = 4,
    figures: bool = True,
) -> Path:
    """Write a study; its folder. figures: with two drawn already, which takes no time."""
    plan = Plan(study, root, planned(cells, names), tuple(labels), tuple(range(seeds)), Settings(timing=Timing(timed, 1)))
    baseline = plan.cells[0].cell.id
    with opened(plan) as open_study:
        for order, cell in enumerate(plan.cells):
            bodies = []
            for label in labels:
                for seed in range(seeds):
                    bodies.append(_unit(cell.cell.id, order, label, seed))
                    if images:
                        walk = seed < staged and label == labels[0]
                        write_images(open_study, cell.cell.id, baseline, order, label, seed, side, walk)
                for seed in range(min(timed, seeds)):
                    ms = 40 / (1 + 0.2 * order) * (1 + 0.01 * seed)
                    bodies.append(timing_body(cell.cell.id, label, seed, 0, 40.0, ms))
            open_study.append(*bodies)
        open_study.append(
            *(
                {
                    "type": "noise",
                    "cell": baseline,
                    "label": label,
                    "seed": 0,
                    "other_seed": 1,
                    "pixel_mae": 0.12,
                    "correlation": 0.7,
                }
                for label in labels
            )
        )
        git = {"commit": "0" * 40, "dirty": False}
        open_study.append({"type": "session", "argv": ["study=made", "note=</script>"], "git": git})
        open_study.write_tables()
    if figures:
        write_figures(plan.folder / "figures")
    return plan.folder


def write_figures(folder: Path) -> None:
    """A figure of three files and one that is a PNG alone, and the list of them."""
    write_png(folder / "b-waves.png", np.linspace(0, 1, 400 * 300).reshape(300, 400))
    write_png(folder / "a-ramp.png", np.linspace(1, 0, 200 * 300).reshape(200, 300))
    (folder / "b-waves.pdf").write_bytes(b"%PDF-1.4")
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="300"><circle cx="9" cy="9" r="5"/></svg>'
    (folder / "b-waves.svg").write_text(svg)
    listed = [{"name": "b-waves", "title": "Waves & <b>", "caption": "What waves show."}, {"name": "a-ramp", "title": "Ramp"}]
    (folder / "index.json").write_text(json.dumps({"figures": listed}))


def _unit(cell: str, order: int, label: int, seed: int) -> dict[str, Any]:
    same = order < 2
    mae = 0.0 if same else 0.01 * order + 0.001 * seed + 0.002 * label
    counts = {"target_rows": 100, "target_rows_alone": 100, "draft_rows": 50, "draft_rows_alone": 100, "committed_by_verify": 5}
    body = unit_body(
        cell,
        label,
        seed,
        STAGES,
        pixel_mae=mae,
        correlation=1 - mae,
        ssim=1 - mae,
        token_agreement=1 - mae,
        identical=same,
        **counts,
    )
    if order == 0:
        body["stages"] = [{"stage": k, "source": "target"} for k in range(STAGES)]
    return body


def write_images(study: Study, cell: str, baseline: str, order: int, label: int, seed: int, side: int, staged: bool) -> None:
    """Waves that shift with the cell: sample, difference and stages."""
    y, x = np.mgrid[:side, :side] / side
    base = 0.5 + 0.5 * np.sin(9 * x + 5 * y + label + 0.7 * seed)
    image = np.clip(base + 0.04 * order * np.sin(17 * x * y + order), 0, 1)
    study.write_image(cell, label, seed, np.stack([image] * 3))
    if cell != baseline:
        study.write_image(cell, label, seed, np.stack([np.clip(4 * np.abs(image - base), 0, 1)] * 3), "_diff")
    if staged:
        columns = []
        for k in range(STAGES):
            tile = np.round(255 * np.stack([image * (k + 1) / STAGES] * 3, -1)).astype(np.uint8)
            kinds = np.array(["target" if cell == baseline else ("kept", "replaced")[(i + k) % 2] for i in range((k + 1) ** 2)])
            columns.append(np.concatenate([tile, token_map(kinds, k + 1, side), tile]))
        study.write_image(cell, label, seed, np.concatenate(columns, axis=1), "_stages")
