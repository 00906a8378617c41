"""The report reads what the store writes: a study made by hand on disk, from ledger to figures."""

from __future__ import annotations

import numpy as np
import pytest

from sdvar_exp.cell import Cell
from sdvar_exp.metrics.quantities.fidelity import fidelity
from sdvar_exp.plan import Plan, PlannedCell
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose
from sdvar_exp.report import summarise, write_figures
from sdvar_exp.store import Study, load_tables

PYRAMID = Pyramid((1, 2, 3))
COUNTS = {"target_calls": 3, "target_rows": 14, "target_rows_alone": 14, "draft_rows": 0, "draft_rows_alone": 14}


def unit(seed: int, changed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, image and feature map; `changed` tokens differ from those of 0."""
    rng = np.random.default_rng(seed)
    tokens, image, f_hat = rng.integers(0, 8, 14), rng.random((3, 12, 12)), rng.random((2, 3, 3))
    tokens[14 - changed :] += 1
    return tokens, np.clip(image + 0.01 * changed, 0, 1).astype(np.float32), f_hat + changed


@pytest.fixture
def folder(tmp_path):
    cells = [Cell(choose("strategy", "sequential")), Cell(choose("strategy", "test3", entry_num=2))]
    plan = Plan("small", tmp_path, tuple(PlannedCell(c, c.strategy.name) for c in cells), (0, 1), (0, 1))
    with Study(tmp_path / "small").open(plan, {"code": "x"}) as study:
        for cell, changed in zip(cells, (0, 9), strict=True):
            for label in (0, 1):
                for seed in (0, 1):
                    ours, base = unit(10 * label + seed, changed), unit(10 * label + seed, 0)
                    key = {"cell": cell.id, "label": label, "seed": seed}
                    sample = fidelity(*ours, *base, PYRAMID) | COUNTS | {"committed_by_verify": 0, "near_tie": None}
                    stages = [{"stage": k, "source": "target"} for k in range(3)]
                    study.write_image(cell.id, label, seed, ours[1])
                    if changed:
                        study.write_image(cell.id, label, seed, np.clip(4 * abs(ours[1] - base[1]), 0, 1), "_diff")
                    study.append({"type": "unit", **key, "sample": sample, "stages": stages})
                    times = {"baseline_ms": 6.0, "baseline_decode_ms": 1.0, "cell_decode_ms": 1.0, "contended": False}
                    times["cell_ms"] = 3.0 if changed else 6.0
                    study.append({"type": "timing", **key, "repeat": 0, "order": "AB", **times, "breakdown": {}})
    return tmp_path / "small"


def test_from_ledger_to_summary(folder):
    baseline, cell = summarise(load_tables(folder)).to_dict("records")
    assert baseline["is_baseline"]
    assert baseline["speedup"] == 1
    assert (baseline["identical"], baseline["compared"]) == (4, 4)
    assert cell["baseline"] == baseline["cell"]
    assert cell["speedup"] == pytest.approx(2)
    assert cell["token_agreement"] == pytest.approx(5 / 14)
    assert (cell["identical"], cell["timed"], cell["target_token_forwards"]) == (0, 4, 1)
    assert 0.08 < cell["pixel_mae"] < 0.09


def test_from_folder_to_figures(folder):
    written = write_figures(folder, folder / "figures")
    assert {p.stem for p in written} == {
        "speedup-vs-pixel-difference",
        "target-calls-and-token-forwards",
        "guidance-schedules",
        "factor-effects",
        "images",
    }
    assert b"figures small --only" in written[1].read_bytes()
