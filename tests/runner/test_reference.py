"""One fixed reference of a study: guidance is judged against it, decoders against the cell's own baseline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sdvar_exp.cell import Cell, ModelSpec
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Timing
from sdvar_exp.registry import choose
from sdvar_exp.report import summarise
from sdvar_exp.report.compare import paired_differences
from sdvar_exp.report.console import legend
from sdvar_exp.report.power import power_table
from sdvar_exp.report.typeset import markdown_table
from sdvar_exp.store import load_tables
from sdvar_exp.store.manifest import read_manifest, settle_reference
from tests.runner.conftest import loop, simple
from tests.runner.watching import MakePlan, Run

REFERENCE = simple("sequential", choose("cfg_schedule", "linear", cfg=1.5))
OFF = choose("cfg_schedule", "off")
CELLS = {
    "sequential": REFERENCE,
    "sequential off": simple("sequential", OFF),
    "draft_only off": simple("draft_only", OFF),
    "exact off": replace(loop(), cfg_schedule=OFF),
}


def test_guidance_is_judged_against_one_reference_and_the_decoder_against_its_own_baseline(plan: MakePlan, run: Run) -> None:
    small = replace(plan(CELLS, timing=Timing(2, 1)), reference=REFERENCE)
    code, text = run(small)
    assert code == 0
    tables = load_tables(small.folder)
    runs = tables.runs.set_index("name")
    assert set(runs["baseline"]) == {REFERENCE.id}
    assert list(runs["own_baseline"]) == [REFERENCE.id, *[CELLS["sequential off"].id] * 3]
    samples = tables.samples.set_index(["name", "label", "seed"]).sort_index()
    same, off, exact = (samples.loc[name] for name in ("sequential", "sequential off", "exact off"))
    assert (same["pixel_mae"] == 0).all() and same["pixel_mae_own"].isna().all() and same["rows_reference"].isna().all()
    # `off` feeds half the rows and changes the image; against its own baseline nothing changed
    assert (off["pixel_mae"] > 0.01).all() and (off["pixel_mae_own"] == 0).all() and off["identical"].all()
    assert (off["rows_reference"] == 2 * off["target_rows"]).all() and (off["first_divergent_stage_own"].isna()).all()
    # lossless is said of the own baseline: the same tokens as `sequential off`, so the same numbers against the reference
    assert exact["identical"].all() and (exact["pixel_mae_own"] == 0).all()
    assert np.array_equal(exact["pixel_mae"], off["pixel_mae"])

    summary = summarise(tables).set_index("name")
    assert summary["target_token_forwards"]["sequential off"] == pytest.approx(0.5)
    assert summary["target_token_forwards_own"]["sequential off"] == pytest.approx(1)
    assert summary["target_token_forwards_own"]["sequential"] == pytest.approx(1)
    assert summary["pixel_mae_own"]["sequential"] == summary["pixel_mae"]["sequential"] == 0
    assert list(summary["is_baseline"]) == [True, False, False, False]
    timings = tables.timings.set_index("name") if "name" in tables.timings else tables.timings
    owned = tables.timings["own_ms"].notna()
    assert set(tables.timings[owned]["order"]) == {"ABC", "CBA"} and set(tables.timings[~owned]["cell"]) == {REFERENCE.id}
    first = tables.timings[owned & (tables.timings["cell"] == CELLS["draft_only off"].id)]
    logs = np.log(first["own_ms"] / first["cell_ms"]).groupby(first["label"]).mean()
    assert summary["speedup_own"]["draft_only off"] == pytest.approx(float(np.exp(logs.mean())))
    assert summary["speedup_own"]["sequential"] == summary["speedup"]["sequential"]
    assert len(timings) == 8
    # everything that is shown says both
    sides = {name: samples.loc[[name]].reset_index().assign(pair="x") for name in ("sequential", "draft_only off")}
    found = paired_differences(sides["sequential"], sides["draft_only off"]).set_index("metric")
    assert found.loc["pixel_mae_own", "a"] == 0 < found.loc["pixel_mae_own", "b"]
    assert found.loc["pixel_mae_own", "b"] == pytest.approx(summary["pixel_mae_own"]["draft_only off"])
    assert power_table(tables, "pixel_mae_own", 0.01).set_index("name")["spread"]["exact off"] == 0
    table = markdown_table(tables, summarise(tables))
    assert "pixel difference (own baseline)" in table and "(own baseline)" in text
    assert any(line.startswith("reference: sequential; own baseline:") for line in legend(summarise(tables)))


def test_one_column_where_the_own_baseline_is_the_reference(plan: MakePlan, run: Run) -> None:
    small = replace(plan({"draft_only": simple("draft_only"), "exact": loop()}, seeds=(0,)), reference=REFERENCE)
    run(small)
    tables = load_tables(small.folder)
    assert not [name for name in (*tables.samples, *summarise(tables)) if name.endswith("_own") and name != "speedup_own"]
    assert "own baseline)" not in markdown_table(tables, summarise(tables))
    sides = [rows.assign(pair="x") for _, rows in tables.samples.groupby("name")]
    assert not paired_differences(*sides[:2])["metric"].str.endswith("_own").any()


def test_the_noise_floor_is_the_references(plan: MakePlan, run: Run) -> None:
    small = replace(plan(CELLS, labels=(0,)), reference=REFERENCE)
    run(small)
    assert set(load_tables(small.folder).noise["cell"]) == {REFERENCE.id}


def test_the_reference_belongs_to_the_study(plan: MakePlan, run: Run) -> None:
    """Who names none goes on with the study's own; who names another is refused with the difference."""
    small = replace(plan({"sequential": REFERENCE}, seeds=(0,)), reference=REFERENCE)
    run(small)
    assert read_manifest(small.folder)["reference"]["id"] == REFERENCE.id  # type: ignore[index]
    off = simple("sequential", OFF)
    more = replace(plan({"off": off}, seeds=(0,)), reference=off)
    assert settle_reference(more).reference == REFERENCE
    code, _ = run(more)
    assert code == 0 and set(load_tables(small.folder).runs["baseline"]) == {REFERENCE.id}
    with pytest.raises(UserError, match=r"begun with another reference \(cfg_schedule.cfg 1.5 → .*name linear → off\)"):
        settle_reference(replace(more, said=True))
    elsewhere = replace(off, model=ModelSpec("files", target="other.pth"))
    with pytest.raises(UserError, match=r"compares with another model .* use study=NAME"):
        settle_reference(replace(plan({"other": elsewhere}), reference=elsewhere))


def test_a_study_from_before_there_were_references_keeps_its_baselines(plan: MakePlan, run: Run) -> None:
    small = plan({"sequential off": simple("sequential", OFF)}, seeds=(0,))
    run(small)
    assert settle_reference(replace(small, reference=REFERENCE)).reference is None
    with pytest.raises(UserError, match="it has none"):
        settle_reference(replace(small, reference=REFERENCE, said=True))


def test_a_cell_of_another_target_is_compared_with_that_target() -> None:
    """Same guidance and sampling as the reference, on the cell's own files; the shipped drafts share one target."""
    other = Cell(choose("strategy", "draft_only"), OFF, model=ModelSpec("files", target="a.pth", vae="v.pth"))
    found = other.compared_with(REFERENCE)
    assert found.model == other.model and found.cfg_schedule == REFERENCE.cfg_schedule
    emoji = Cell(choose("strategy", "draft_only"), OFF, model=ModelSpec("emoji"))
    assert emoji.compared_with(REFERENCE).model == emoji.model
    for name in ("embedded_plain", "embedded_late"):
        other = Cell(choose("strategy", "draft_only"), OFF, model=ModelSpec(name))
        assert other.compared_with(REFERENCE) == REFERENCE
        assert other.compared_with(None) == other.baseline()
