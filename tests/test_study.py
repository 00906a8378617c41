"""The claims of docs/STUDY.md, from the features kept in results/study: their signs, and that the tables are those of the data."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "results" / "study"
SANDWICH, CODE = "model_schedule T5 D4 t1", "collaborative N=6"


@pytest.fixture(scope="module")
def differences() -> pd.DataFrame:
    return pd.read_csv(KEPT / "differences.csv").set_index(["a", "b"])


def test_sandwiches_are_nearer_to_the_data_than_codes_order(differences: pd.DataFrame) -> None:
    assert differences.loc[(SANDWICH, CODE), "fd_real_high"] < 0
    assert differences.loc[("model_schedule T7 D2 T1", "collaborative N=8"), "fd_real_high"] < 0


def test_what_is_not_shown_is_said_so(differences: pd.DataFrame) -> None:
    accuracy = differences.loc[(SANDWICH, CODE)]
    assert accuracy["class_accuracy_low"] < 0 < accuracy["class_accuracy_high"]
    assert "accuracy is not shown" in (ROOT / "docs" / "STUDY.md").read_text(encoding="utf-8")


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
def test_the_tables_are_those_of_the_kept_features() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "study.py"))["tables"](KEPT / "features.npz")
    for name, table in zip(("quality", "differences"), made, strict=True):
        pd.testing.assert_frame_equal(table, pd.read_csv(KEPT / f"{name}.csv"), rtol=0, atol=2e-3)
