"""Every number of the summary on small tables where it can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from sdvar_exp.report import summarise
from sdvar_exp.report.console import legend
from sdvar_exp.report.summary import columns


def row(summary: pd.DataFrame, name: str) -> pd.Series:
    return summary[summary["name"] == name].iloc[0]


def test_columns_and_plan_order(study):
    summary = summarise(study)
    assert list(summary.columns) == columns()
    assert list(summary["name"]) == list(study.runs["name"])
    study_in_disorder = type(study)(**{**vars(study), "runs": study.runs.iloc[::-1]})
    assert list(summarise(study_in_disorder)["name"]) == list(study.runs["name"])


def test_counts_and_means(study):
    summary = summarise(study)
    cell = row(summary, "parallel_v1 γ=3 match_rate τ=0.5 correct")
    own = study.samples[study.samples["cell"] == cell["cell"]]
    assert (cell["n"], cell["labels"], cell["compared"], cell["failed"], cell["timed"]) == (24, 3, 24, 0, 24)
    assert cell["pixel_mae"] == pytest.approx(own["pixel_mae"].mean())
    assert cell["pixel_mae_low"] < cell["pixel_mae"] < cell["pixel_mae_high"]
    assert cell["target_token_forwards"] == pytest.approx(1.2, abs=1e-3)
    assert cell["committed_per_call"] == pytest.approx(own["committed_by_verify"].sum() / own["target_calls"].sum())
    assert cell["baseline"] == row(summary, "sequential")["cell"]


def test_speedup_is_paired_geometric_and_weights_units_not_repeats(new_study):
    study = new_study(labels=(0, 1), seeds=2)
    cell = study.runs["cell"].iloc[2]
    rows = []
    for label, seed, speedups in ((0, 0, (2, 2, 2)), (0, 1, (8,)), (1, 0, (2,)), (1, 1, (8, 8))):
        for repeat, s in enumerate(speedups):
            base = {"cell": cell, "label": label, "seed": seed, "repeat": repeat, "contended": False}
            vae = {"baseline_decode_ms": 8.0, "cell_decode_ms": 8.0}
            rows.append({**base, **vae, "baseline_ms": 8.0, "cell_ms": 8.0 / s})
    rows.append({**rows[-1], "repeat": 2, "cell_ms": 1000.0, "contended": True})
    study.timings = pd.DataFrame(rows)
    found = summarise(study).iloc[2]
    assert found["speedup"] == pytest.approx(4)
    assert found["speedup_with_vae"] == pytest.approx(math.exp(np.log([16 / 12, 16 / 9, 16 / 12, 16 / 9]).mean()))
    assert (found["timed"], found["contended"]) == (4, 0), "units whose other repeats are in the mean are in it"
    assert found["latency_ms"] == pytest.approx((4 + 1 + 4 + 1) / 4)
    study.timings["contended"] = study.timings["contended"] | (study.timings["label"] == 0)
    found = summarise(study).iloc[2]
    assert (found["timed"], found["contended"]) == (2, 2)


def test_a_unit_is_worth_the_median_of_its_repeats(new_study):
    study = new_study(labels=(0,), seeds=2)
    cell = study.runs["cell"].iloc[2]
    ids = {"cell": cell, "label": 0, "contended": False, "baseline_decode_ms": 8.0, "cell_decode_ms": 8.0}
    times = [(0, 4.0), (0, 4.0), (0, 400.0), (1, 1.0), (1, 1.0), (1, 0.01)]
    rows = [{**ids, "seed": s, "repeat": i, "baseline_ms": 8.0, "cell_ms": ms} for i, (s, ms) in enumerate(times)]
    study.timings = pd.DataFrame(rows)
    assert summarise(study).iloc[2]["speedup"] == pytest.approx(4)


def test_the_baseline_row_is_timed_against_itself(study):
    baseline = row(summarise(study), "sequential")
    assert baseline["is_baseline"]
    assert baseline["speedup_low"] < 1.02
    assert baseline["speedup_high"] > 0.98
    assert (baseline["identical"], baseline["pixel_mae"], baseline["target_token_forwards"]) == (24, 0, 1)


def test_identical_images_and_their_bound(study):
    summary = summarise(study)
    assert row(summary, "parallel_v1 γ=2 exact correct")["identical"] == 24
    assert row(summary, "parallel_v1 γ=2 exact correct")["different_bound"] == pytest.approx(1 - 0.05 ** (1 / 24))
    assert row(summary, "draft_only")["different_bound"] == 1


def test_no_target_calls_give_no_rate(study):
    assert math.isnan(row(summarise(study), "draft_only")["committed_per_call"])


def test_noise_floor_from_the_tables_or_given(study):
    summary = summarise(study)
    assert summary["noise_pixel_mae"].tolist() == pytest.approx([0.118] * 8)
    assert set(summary["noise_pairs"]) == {3 * 28}
    given = pd.DataFrame({"cell": [study.runs["cell"].iloc[0]], "pixel_mae": [0.2], "correlation": [None]})
    other = summarise(study, given)
    assert set(other["noise_pixel_mae"]) == {0.2}
    assert other["noise_correlation"].isna().all()


def test_untimed_and_contended_cells_have_no_speedup(new_study):
    study = new_study(timed=False)
    assert summarise(study)["speedup"].isna().all()
    study = new_study()
    study.timings["contended"] = True
    summary = summarise(study)
    assert summary["speedup"].isna().all()
    assert set(summary["contended"]) == {24}
    assert set(summary["timed"]) == {0}


def test_rows_without_a_twin_are_counted_but_not_compared(new_study):
    study = new_study(seeds=2)
    cell = study.runs["cell"].iloc[2]
    lost = (study.samples["cell"] == cell) & (study.samples["seed"] == 1)
    study.samples.loc[lost, ["pixel_mae", "correlation", "token_agreement"]] = None
    study.samples["identical"] = study.samples["identical"].astype(object)
    study.samples.loc[lost, "identical"] = None
    found = summarise(study).iloc[2]
    assert (found["n"], found["compared"]) == (6, 3)


def test_a_failed_unit_counts_until_it_has_a_row(new_study):
    study = new_study(seeds=2)
    cell = study.runs["cell"].iloc[1]
    done = {"cell": cell, "label": 0, "seed": 0, "error": "x"}
    study.failures = pd.DataFrame([done, {**done, "seed": 99}, {**done, "seed": 99}])
    assert summarise(study).iloc[1]["failed"] == 1


def test_a_cell_without_rows_has_a_row_without_numbers(new_study):
    study = new_study(seeds=2)
    empty = study.runs["cell"].iloc[3]
    study.samples = study.samples[study.samples["cell"] != empty]
    study.timings = study.timings[study.timings["cell"] != empty]
    found = summarise(study).iloc[3]
    assert (found["n"], found["identical"], found["timed"]) == (0, 0, 0)
    assert pd.isna(found["pixel_mae"])
    assert pd.isna(found["different_bound"])


def test_a_study_without_cells(new_study):
    study = new_study(seeds=1)
    study.runs = study.runs.iloc[:0]
    summary = summarise(study)
    assert summary.empty
    assert list(summary.columns) == columns()


def test_one_unit_has_means_without_intervals(new_study):
    found = summarise(new_study(labels=(3,), seeds=1)).iloc[2]
    assert found["pixel_mae"] > 0
    assert pd.isna(found["pixel_mae_low"])
    assert pd.isna(found["speedup_high"])


def test_nullable_columns_of_the_store_are_read_like_plain_ones(new_study):
    study = new_study(seeds=3)
    plain = summarise(study)
    for name in ("samples", "stages", "runs", "timings"):
        setattr(study, name, getattr(study, name).convert_dtypes())
    pd.testing.assert_frame_equal(summarise(study), plain, check_dtype=False)


def test_a_bound_that_is_cut_is_said(new_study):
    study = new_study(labels=(0,), seeds=4)
    cell = study.runs["cell"].iloc[2]
    own = study.samples["cell"] == cell
    study.samples.loc[own, "pixel_mae"] = [0.001, 0.2, 0.002, 0.003]
    found = summarise(study)
    assert found.iloc[2]["pixel_mae_low"] == 0 and found.iloc[2]["cut"] == "pixel_mae"
    assert any("cut" in line and "pixel difference" in line for line in legend(found))
    assert summarise(new_study())["cut"].tolist() == [""] * 8
