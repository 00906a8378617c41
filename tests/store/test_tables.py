"""Tables from the ledger, and what makes two of them equal byte for byte."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sdvar_exp.errors import UserError
from sdvar_exp.store import Study, load_results, load_tables, stable_csv
from sdvar_exp.store.columns import SAMPLES, STAGES, TABLES, VOLATILE
from sdvar_exp.store.frames import PIECE, TEXT, FrameBuilder, series
from sdvar_exp.store.stable import frame_csv
from sdvar_exp.store.timing import unit_times
from tests.store.making import FINGERPRINT, all_units, make_plan, opened, timing_body, unit_body


def test_an_empty_study_has_empty_tables_with_all_columns(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        tables = study.write_tables()
    for name, columns in TABLES.items():
        frame = getattr(tables, name)
        assert list(frame) == list(columns) and len(frame) == (3 if name == "runs" else 0)
        for kind in ("csv", "parquet"):
            assert (plan.folder / "tables" / f"{name}.{kind}").stat().st_size
    assert tables.runs["units"].tolist() == [0, 0, 0] and tables.runs["planned"].tolist() == [6, 6, 6]
    assert stable_csv(plan.folder).count("\n") == 1


def test_rows_follow_the_plan_and_carry_the_cell(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    units = all_units(plan)
    random.Random(0).shuffle(units)
    with opened(plan) as study:
        study.append(*units)
        tables = study.write_tables()
    samples = tables.samples
    assert list(samples) == list(SAMPLES) and list(tables.stages) == list(STAGES)
    assert len(samples) == 18 and len(tables.stages) == 54
    wanted = [(p.cell.id, label, seed) for p in plan.cells for label in plan.labels for seed in plan.seeds]
    assert list(samples[["cell", "label", "seed"]].itertuples(index=False, name=None)) == wanted
    last = samples.iloc[-1]
    assert (last["strategy"], last["mask"], last["gamma_spec"], last["cfg_schedule_spec"]) == (
        "parallel_v1", "block_causal", "fixed(3)", "linear(1.5)",
    )  # fmt: skip
    assert last["acceptance"] == "match_rate" and last["gamma"] == "fixed" and last["strategy"] == "parallel_v1"
    assert last["acceptance_spec"] == "match_rate(tau=0.7, mode=coupled, repair=false)" and last["gamma_spec"] == "fixed(3)"
    assert last["strategy_spec"].startswith("parallel_v1(on_reject=correct, ")
    assert samples.loc[0, ["mask", "acceptance", "gamma"]].isna().all()
    assert samples["latency_ms"].isna().all() and samples["speedup"].isna().all()
    run = tables.runs.iloc[2]
    assert json.loads(run["config"])["strategy"]["name"] == "parallel_v1" and run["units"] == 6
    assert json.loads(run["checkpoints"]) == FINGERPRINT["checkpoints"] and run["threads"] == 2
    assert run["overrides"] == "strategy=parallel_v1 gamma.value=3"


def test_files_read_back_as_the_tables(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        study.append(*all_units(plan))
        tables = study.write_tables()
    for name in TABLES:
        frame = getattr(tables, name)
        pd.testing.assert_frame_equal(pd.read_parquet(plan.folder / "tables" / f"{name}.parquet"), frame)
        again = pd.read_csv(plan.folder / "tables" / f"{name}.csv")
        assert list(again) == list(frame) and len(again) == len(frame)
    again = pd.read_csv(plan.folder / "tables" / "samples.csv")
    assert again["pixel_mae"].tolist() == tables.samples["pixel_mae"].tolist()
    assert not list((plan.folder / "tables").glob(".*"))


def test_the_stable_table_forgets_order_processes_and_times(tmp_path: Path) -> None:
    rng = random.Random(1)
    texts = []
    for attempt in range(3):
        plan = make_plan(tmp_path / str(attempt), study=f"study{attempt}")
        units = all_units(plan)
        rng.shuffle(units)
        parts = [units[:5], units[5:], units[:2]] if attempt else [units]
        for part in parts:
            with opened(plan) as study:
                more = {"noise_ms": rng.random(), "attempt": rng.randint(1, 9), "cache_hit": rng.random() < 0.5}
                study.append(*({**u, "sample": {**u["sample"], **more}} for u in part))
                cell = plan.cells[attempt].cell.id
                study.append(timing_body(cell, 3, 0, 0, 20.0, rng.uniform(5, 10)))
        texts.append([stable_csv(plan.folder, name) for name in ("samples", "stages", "runs")])
    assert texts[0] == texts[1] == texts[2]
    header, *rows = csv.reader(io.StringIO(texts[0][0]))
    assert not VOLATILE & set(header) and len(rows) == 18
    row = dict(zip(header, rows[0], strict=True))
    assert row["psnr_db"] == row["near_tie"] == row["mask"] == "null" and row["identical"] == "false"
    assert row["target_calls"].isdecimal() and float(row["pixel_mae"]) == unit_body(row["cell"], 3, 0)["sample"]["pixel_mae"]


def test_stable_texts() -> None:
    frame = pd.DataFrame({"a": [0.1 + 0.2, math.nan, 1e-300, 5.0], "b": pd.array([1, None, 3, 4], dtype="Int64")})
    frame["c"] = pd.array([True, None, False, True], dtype="boolean")
    frame["d"] = pd.array(["x,y", None, "γ", ""], dtype="str")
    expected = 'a,b,c,d\n0.30000000000000004,1,true,"x,y"\nnull,null,null,null\n1e-300,3,false,γ\n5.0,4,true,\n'
    assert frame_csv(frame) == expected
    with pytest.raises(UserError, match="no stable table"):
        stable_csv("nowhere", "timings")


def test_the_first_row_of_a_unit_stays_and_a_difference_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = make_plan(tmp_path)
    cell = plan.cells[1].cell.id
    first, twin = Study(plan.folder), Study(plan.folder)
    with opened(plan):
        first.attach().append(unit_body(cell, 3, 0))
        twin.attach().append(unit_body(cell, 3, 0, host="elsewhere"), unit_body(cell, 3, 1))
        first.append(unit_body(cell, 3, 1, pixel_mae=0.5, correlation=None))
    tables = load_tables(plan.folder)
    assert len(tables.samples) == 2 and len(tables.stages) == 6
    assert tables.samples["pixel_mae"].tolist()[1] == 0.5, "the first file holds the first row"
    assert len(tables.notes) == 1
    assert f"unit {cell} label 3 seed 1 was committed twice, the first row stays" in tables.notes[0]
    assert "pixel_mae 0.5 and 0." in tables.notes[0] and tables.notes[0] in caplog.text
    with opened(plan) as study:
        for mark in ("first", "later"):
            study.append(*(unit_body(cell, 8, n, **{f"fact_{k}": mark for k in range(n)}) for n in (4, 5)))
    four, five = (note.rpartition(": ")[2] for note in load_tables(plan.folder).notes[1:])
    assert four == "; ".join(f"fact_{k} 'first' and 'later'" for k in range(4)) and five == f"{four}; …"


def test_time_columns() -> None:
    unit = ("c", 3, 0)
    clean = [timing_body(*unit, r, b, c) for r, (b, c) in enumerate([(20, 10), (40, 10), (30, 10)])]
    times = unit_times([*clean, timing_body(*unit, 3, 1, 100, contended=True)])
    assert times["latency_ms"] == 10 and times["baseline_latency_ms"] == 30 and times["vae_ms"] == 11
    assert times["speedup"] == pytest.approx(3), "the median of 2, 4 and 3"
    assert times["speedup_with_vae"] == pytest.approx(40 / 21)
    assert times["draft_ms"] == 1 and times["fhat_ms"] == 0.25 and times["contended"] is False
    times = unit_times([timing_body(*unit, 0, 20, 10, contended=True)])
    assert times["speedup"] is None and times["latency_ms"] == 10 and times["contended"] is True


def test_a_hiccup_does_not_move_a_unit_and_of_two_pairs_the_logarithms_are_averaged() -> None:
    unit = ("c", 3, 0)
    pairs = [timing_body(*unit, r, b, 10) for r, b in enumerate([20, 21, 900])]
    assert unit_times(pairs)["speedup"] == pytest.approx(2.1)
    assert unit_times([pairs[0], timing_body(*unit, 1, 80, 10)])["speedup"] == pytest.approx(4)


def test_a_repeat_that_was_timed_alone_stands_for_one_that_was_not(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    cell = plan.cells[2].cell.id
    unit = (cell, 8, 2)
    with opened(plan) as study:
        study.append(*all_units(plan), timing_body(*unit, 0, 90, 10, contended=True), timing_body(*unit, 1, 20, 10))
        assert study.timed()[unit].keys() == {1} and study.timed_beside() == {unit}
        study.append(timing_body(*unit, 0, 20, 10), timing_body(*unit, 0, 80, 10, contended=True))
        assert study.timed()[unit] == pytest.approx({0: math.log(2), 1: math.log(2)}) and not study.timed_beside()
    tables = load_tables(plan.folder)
    assert tables.timings["baseline_ms"].tolist() == [20, 20] and not tables.timings["contended"].any()
    assert tables.samples["speedup"].dropna().tolist() == pytest.approx([2])


def test_only_timed_units_have_times(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    cell = plan.cells[2].cell.id
    with opened(plan) as study:
        study.append(*all_units(plan))
        study.append(timing_body(cell, 8, 2, 1, 30, 10), timing_body(cell, 8, 2, 0, 20, 10))
        study.append(timing_body(cell, 8, 2, 0, 999, 10))  # a repeat that was measured again
        tables = study.write_tables()
    timed = tables.samples[tables.samples["speedup"].notna()]
    assert timed[["cell", "label", "seed"]].values.tolist() == [[cell, 8, 2]]
    assert timed["speedup"].item() == pytest.approx(6**0.5)
    assert tables.timings["repeat"].tolist() == [0, 1] and tables.timings["baseline_ms"].tolist() == [20, 30]
    assert tables.timings["verify_ms"].tolist() == [2, 2]


def test_failures_noise_and_unknown_columns(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    cell = plan.cells[1].cell.id
    with opened(plan) as study:
        study.append({"type": "failure", "cell": cell, "label": 3, "seed": 1, "error": "E: x", "traceback": "…", "attempt": 2})
        study.append({"type": "failure", "cell": cell, "label": 3, "seed": 0, "error": "E: y", "traceback": "…", "attempt": 1})
        study.append(unit_body(cell, 3, 0, my_metric=2), unit_body(cell, 3, 2, my_metric=2.5, note="text"))
        study.append(unit_body("not planned", 3, 0))
        pair = {"type": "noise", "cell": plan.cells[0].cell.id, "label": 3, "seed": 0, "pixel_mae": 0.1, "correlation": 0.8}
        study.append({**pair, "other_seed": 2}, {**pair, "other_seed": 1}, {**pair, "other_seed": 1})
        tables = study.write_tables()
    failures = tables.failures[["seed", "error", "done", "attempt"]]
    assert failures.values.tolist() == [[0, "E: y", True, 1], [1, "E: x", False, 2]]
    assert tables.noise["other_seed"].tolist() == [1, 2] and list(tables.noise)[-1] == "correlation"
    assert list(tables.samples)[-2:] == ["my_metric", "note"]
    assert tables.samples["my_metric"].tolist()[:2] == [2.0, 2.5]
    assert tables.samples["cell"].tolist()[-1] == "not planned", "a row that no plan describes is kept, at the end"
    assert tables.runs.set_index("cell")["failures"].to_dict()[cell] == 2


def test_one_cell_only(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        study.append(*all_units(plan))
    cell = plan.cells[1].cell.id
    tables = load_tables(plan.folder, cells={cell})
    everything = load_tables(plan.folder)
    chosen = everything.samples[everything.samples["cell"] == cell].reset_index(drop=True)
    pd.testing.assert_frame_equal(tables.samples, chosen)
    assert tables.runs["cell"].tolist() == [cell] and set(tables.stages["cell"]) == {cell}
    others = [c for c in everything.runs["cell"] if c != cell]
    two = load_tables(plan.folder, cells=others)
    assert two.runs["cell"].tolist() == others
    pd.testing.assert_frame_equal(two.samples, everything.where(lambda _, frame: frame["cell"] != cell).samples)


def test_pieces_of_a_large_table_keep_their_kinds() -> None:
    builder = FrameBuilder({"a": "int", "b": "str", "c": "float"})
    for i in range(PIECE + 3):
        builder.add({"a": i, "c": None, "later": 1 if i > PIECE else None, "mixed": i if i < PIECE else 0.5})
    frame = builder.frame()
    assert len(frame) == PIECE + 3 and frame["a"].dtype == "Int64" and frame["b"].isna().all()
    assert list(frame) == ["a", "b", "c", "later", "mixed"] and frame.index.equals(pd.RangeIndex(PIECE + 3))
    assert frame["later"].dtype == "Int64" and frame["later"].sum() == 2 and frame["mixed"].dtype == "float64"
    for values, kind in (([True, None], "boolean"), ([None, None], "float64"), ([1, None], "Int64"), ([True, 2], "str")):
        found = series(values, None)
        assert found.dtype == (TEXT if kind == "str" else kind) and found.isna().tolist() == [v is None for v in values]


def test_a_value_of_the_wrong_kind_makes_text_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    builder = FrameBuilder({"a": "int"})
    builder.add({"a": 1})
    builder.add({"a": "two"})
    assert builder.frame()["a"].tolist() == ["1", "two"] and "kind int" in caplog.text


@pytest.mark.parametrize("fraction", [2.5, np.float64(2.5)])
def test_a_fraction_among_whole_numbers_is_not_cut_off(fraction: float, caplog: pytest.LogCaptureFixture) -> None:
    builder = FrameBuilder({"target_calls": "int", "seed": "int"})
    for row in ({"target_calls": 1, "seed": 0}, {"seed": 1}, {"target_calls": fraction, "seed": 2}):
        builder.add(row)
    frame = builder.frame()
    assert frame["target_calls"].fillna("").tolist() == ["1", "", "2.5"] and "kind int" in caplog.text
    assert frame["seed"].tolist() == [0, 1, 2] and frame["seed"].dtype == "Int64"


def test_no_study_and_a_damaged_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study at"):
        load_tables(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_tables(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 2}')
    with pytest.raises(UserError, match="not of schema 1"):
        load_tables(tmp_path)


def test_load_results_selects_and_knows_the_configuration(tmp_path: Path) -> None:
    for study in ("one", "two"):
        plan = make_plan(tmp_path, study=study)
        with opened(plan) as opened_study:
            opened_study.append(*all_units(plan))
    frame = load_results(tmp_path / "one")
    assert len(frame) == 18 and frame["lossless"].tolist()[0] == "tokens"
    assert len(load_results(tmp_path)) == 36
    assert set(load_results([tmp_path / "one", str(tmp_path / "two")])["study"]) == {"one", "two"}
    chosen = load_results(tmp_path / "one", "strategy == 'test3' and seed > 0")
    assert len(chosen) == 4 and set(chosen["strategy_entry_num"]) == {4} and chosen["gamma_value"].isna().all()
    assert set(load_results(tmp_path / "one", {"gamma_value": 3})["strategy"]) == {"parallel_v1"}
    assert len(load_results(tmp_path / "one", {"label": [3, 5], "seed": range(2)})) == 6
    assert len(load_results(tmp_path / "one", {"mask": None})) == 6
    assert len(load_results(tmp_path / "one", lambda f: f["acceptance_tau"] > 0.5)) == 6
    for where in ({"labels": 3}, "labels == 3", "((", lambda f: f["pixel_mae"] > 2):
        if callable(where):
            assert load_results(tmp_path / "one", where).empty
            continue
        with pytest.raises(UserError, match="where"):
            load_results(tmp_path / "one", where)
    with pytest.raises(UserError, match="no study"):
        load_results(tmp_path / "three")
    slips = {
        "label = 2": "; did you mean 'label == 2'?",
        "strategy == test3 AND label=3": "; did you mean \"strategy == 'test3' and label==3\"?",
        "strategy in [test3, hybrid]": "; did you mean \"strategy in ['test3', 'hybrid']\"?",
        "strategy_entry_nmu > 2": ": there is no column 'strategy_entry_nmu'; did you mean 'strategy_entry_num'?",
        "acceptance.tau == 0.5": "; did you mean 'acceptance_tau == 0.5'?",
        "acceptance_tau == null": "; did you mean 'acceptance_tau.isnull()'?",
        "label": ": it is no condition, as label == 2 is",
        "1": ": it is no condition, as label == 2 is",
        "strategy == 'test3": ": unterminated string literal",
    }
    for where, said in slips.items():
        with pytest.raises(UserError) as caught:
            load_results(tmp_path / "one", where)
        assert str(caught.value).startswith(f"where: cannot read {where!r}{said}")


def test_rows_of_stages_stand_beside_the_factors_of_their_cells(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        study.append(*all_units(plan))
    stages = load_results(plan.folder, table="stages")
    assert len(stages) == len(load_tables(plan.folder).stages) > 0
    loop = stages[stages["strategy"] == "parallel_v1"]
    assert (
        set(loop["acceptance"]) == {"match_rate"} and set(loop["acceptance_tau"]) == {0.7} and set(loop["gamma_value"]) == {3}
    )
    assert loop["accepted_share"].notna().any() and set(loop["name"]) == {"parallel_v1 γ=3"}
    assert (
        len(load_results(plan.folder, "acceptance == 'match_rate' and stage == 1", table="stages")) == loop["stage"].eq(1).sum()
    )
    assert set(load_results(plan.folder, table="runs")["gamma_spec"].dropna()) == {"fixed(3)"}
    with pytest.raises(UserError, match="no table 'stage'; choose one of samples, stages"):
        load_results(plan.folder, table="stage")


def test_kept_tables_of_before_have_the_names_of_today(tmp_path: Path) -> None:
    """Whole texts where names are now, and the share of accepted tokens under the name of the rule's column."""
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        study.append(*all_units(plan))
        today = study.write_tables()
    for name in ("samples", "runs", "stages"):
        path = plan.folder / "tables" / f"{name}.parquet"
        frame = pd.read_parquet(path).rename(columns={"accepted_share": "acceptance"})
        if name != "stages":
            for kind in ("mask", "acceptance", "gamma", "cfg_schedule"):
                frame[kind] = frame[f"{kind}_spec"]
            frame = frame[[c for c in frame if not c.endswith("_spec")]]
        frame.to_parquet(path, index=False)
    for file in (plan.folder / "ledger").iterdir():
        file.unlink()
    kept = load_tables(plan.folder)
    assert set(kept.samples["acceptance"].dropna()) == {"match_rate"}
    for name in ("samples", "runs", "stages"):
        old, new = (getattr(tables, name).drop(columns="strategy_spec", errors="ignore") for tables in (kept, today))
        pd.testing.assert_frame_equal(old, new)
    assert kept.samples["strategy_spec"].iloc[-1].startswith("parallel_v1(bonus=false, ")


def test_a_plan_with_no_rows_yet_loads(tmp_path: Path) -> None:
    opened(replace(make_plan(tmp_path), cells=())).close()
    assert load_results(tmp_path / "made_up").empty
