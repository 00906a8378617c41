"""The claims of docs/STUDY.md, from the features kept in results/study: their signs, and that the tables are those of the data."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "results" / "study"
SANDWICH, CODE = "model_schedule T5 D4 t1", "collaborative N=6"


@pytest.fixture(scope="module")
def differences() -> pd.DataFrame:
    return pd.read_csv(KEPT / "differences.csv").set_index(["a", "b"])


@pytest.mark.parametrize(
    ("sandwich", "entry"),
    [("T5 D4 t1", 5), ("T5 D4 t1", 6), ("T5 D4 t1", 7), ("T6 D3 t1", 7), ("T6 D3 t1", 8), ("T6 D3 T1", 8), ("T7 D2 T1", 8)],
)
def test_sandwiches_are_nearer_to_the_data_than_codes_order(sandwich: str, entry: int, differences: pd.DataFrame) -> None:
    """Differences are first minus second, and the cell with more rows is the first."""
    pair = (f"model_schedule {sandwich}", f"collaborative N={entry}")
    if pair in differences.index:
        assert differences.loc[pair, "fd_real_high"] < 0
    else:
        assert differences.loc[pair[::-1], "fd_real_low"] > 0


def test_class_accuracy_is_higher_where_the_page_says_so(differences: pd.DataFrame) -> None:
    assert differences.loc[("model_schedule T6 D3 t1", "collaborative N=7"), "class_accuracy_low"] > 0
    assert differences.loc[("collaborative N=8", "model_schedule T6 D3 T1"), "class_accuracy_high"] < 0
    unknown = differences.loc[("model_schedule T5 D4 t1", "collaborative N=6")]
    assert unknown["class_accuracy_low"] < 0 < unknown["class_accuracy_high"]


def test_pixel_difference_prefers_codes_order() -> None:
    quality = pd.read_csv(KEPT / "quality.csv").set_index("schedule")
    assert quality.loc[SANDWICH, "pixel_mae"] > quality.loc[CODE, "pixel_mae"]
    assert quality.loc[SANDWICH, "fd_real"] < quality.loc[CODE, "fd_real"]


def test_the_signs_follow_from_the_kept_features() -> None:
    from sdvar_exp.metrics.distribution import frechet, test_features

    with np.load(KEPT / "features.npz") as file:
        names, features = file["names"].tolist(), file["features"]
    real = test_features()[0]
    fd = {name: frechet(features[names.index(name)].astype(np.float32), real) for name in ("sequential", SANDWICH, CODE)}
    kept = pd.read_csv(KEPT / "quality.csv").set_index("schedule")["fd_real"]
    assert fd["sequential"] < fd[SANDWICH] < fd[CODE]
    assert all(fd[name] == pytest.approx(kept[name], abs=1e-3) for name in fd)


@pytest.mark.long
def test_the_claim_holds_again_at_small_size() -> None:
    """640 other images a cell: the sandwich with a third of the rows is nearer to the data than CoDe's order with the same rows."""
    from sdvar_exp.cell import Cell, Unit
    from sdvar_exp.decoding import decode, decode_images, make_noise
    from sdvar_exp.metrics.distribution import frechet, test_features
    from sdvar_exp.models.classifier import load_classifier
    from sdvar_exp.models.files import WEIGHTS
    from sdvar_exp.models.pair import load_pair
    from sdvar_exp.registry import choose

    pair, classifier = load_pair(), load_classifier(WEIGHTS / "classifier.safetensors")
    guidance = choose("cfg_schedule", "linear", cfg=1.5)
    sandwich = Cell(choose("strategy", "model_schedule", stages="T6D3t1"), guidance).normalised()
    code = Cell(choose("strategy", "collaborative", target_stages=7), guidance).normalised()
    features: dict[Cell, list[torch.Tensor]] = {sandwich: [], code: []}
    rows = dict.fromkeys(features, 0.0)
    for seed in range(40_000, 40_064, 4):
        units = [Unit(label, s) for s in range(seed, seed + 4) for label in range(10)]
        noise = make_noise(pair, units)
        for cell in features:
            out = decode(pair, cell, units, noise=noise, record=False)
            rows[cell] = sum(one.halves * one.rows(pair.pyramid) for one in out.passes if one.role == "target")
            grey = decode_images(pair, out.f_hat).mean(1, keepdim=True)
            with torch.inference_mode():
                features[cell].append(classifier.features(grey.mul(255).round().div(255).expand(-1, 3, -1, -1)))
    real = test_features()[0]
    assert frechet(torch.cat(features[sandwich]).numpy(), real) < frechet(torch.cat(features[code]).numpy(), real)
    assert rows[sandwich] == pytest.approx(rows[code], rel=0.02)


@pytest.mark.long
def test_the_tables_are_those_of_the_kept_features() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "study.py"))["tables"](KEPT / "features.npz")
    for name, table in zip(("quality", "differences"), made, strict=True):
        pd.testing.assert_frame_equal(table, pd.read_csv(KEPT / f"{name}.csv"), rtol=0, atol=2e-3)
