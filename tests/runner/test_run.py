"""What a run leaves: tables, rows, images, the noise floor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdvar_exp.decoding import api
from sdvar_exp.plan import Timing
from sdvar_exp.runner.measuring import units
from sdvar_exp.store import Study, load_tables, stable_csv
from tests.runner.conftest import loop
from tests.runner.watching import DRAFT_ONLY, EXACT, SEQUENTIAL, Decodes, MakePlan, Run, records


def test_a_run_leaves_tables_images_figures_and_says_where(plan: MakePlan, run: Run, figures: None) -> None:
    small = plan(images="all", timing=Timing(1, 1))
    code, text = run(small)
    assert code == 0
    for name in ("samples", "stages", "runs", "timings"):
        assert (small.folder / "tables" / f"{name}.parquet").is_file() and (small.folder / "tables" / f"{name}.csv").is_file()
    assert list((small.folder / "figures").glob("*.png"))
    assert str(small.folder / "tables") in text and str(small.folder / "figures") in text
    assert "4 cells × 2 labels × 2 seeds = 16 images" in text and "sequential" in text and "\x1b" not in text
    assert not (small.folder / "lock").exists()


def test_a_row_says_everything_about_its_unit(plan: MakePlan, run: Run) -> None:
    small = plan({"draft_only": DRAFT_ONLY})
    code, text = run(small)
    assert code == 0 and "added to compare with: sequential" in text
    tables = load_tables(small.folder)
    assert list(tables.runs["name"]) == ["sequential", "draft_only"]
    sequential, drafted = (tables.samples[tables.samples["strategy"] == s] for s in ("sequential", "draft_only"))
    assert (sequential["pixel_mae"] == 0).all() and sequential["identical"].all() and (sequential["target_calls"] == 5).all()
    assert (drafted["pixel_mae"] > 0.05).all() and not drafted["identical"].any() and (drafted["draft_calls"] == 5).all()
    assert tables.samples["noise_ms"].gt(0).all() and tables.samples["latency_ms"].isna().all()
    assert sequential["cache_hit"].sum() == 0 and drafted["cache_hit"].all()
    stages = tables.stages[tables.stages["cell"] == DRAFT_ONLY.id]
    assert list(stages["source"].unique()) == ["draft"] and len(stages) == 4 * 5
    assert stages["token_agreement"].between(0, 1).all()


def test_exact_gives_the_baselines_tokens(plan: MakePlan, run: Run) -> None:
    for dtype in ("float32", "float64"):
        small = plan({"exact": EXACT, "γ=5": loop(gamma=5)}, dtype=dtype, folder=dtype)
        code, text = run(small)
        samples = load_tables(small.folder).samples
        assert code == 0 and samples["identical"].all() and (samples["pixel_mae"] == 0).all()
        assert not samples["near_tie"].any() and "a bug" not in text
        assert set(samples[samples["cell"] == EXACT.id]["gamma_trace"].str[:3]) == {"2,2"}


def test_a_broken_promise_is_shouted(plan: MakePlan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(pair: Any, cell: Any, of: Any, **more: Any) -> Any:
        return api.decode(pair, DRAFT_ONLY, of, **more)

    monkeypatch.setattr(units, "decode", decode)
    code, text = run(plan({"exact": EXACT}))
    assert code == 1 and "exact is to give the baseline's tokens, but 4 of 4 images differ" in text


def test_a_session_record_tells_the_circumstances(plan: MakePlan, run: Run) -> None:
    small = plan()
    run(small)
    (session,) = records(small, "session")
    assert session["argv"] == ["study=study", "labels=[0,3]"] and session["threads"] == 1
    assert session["timing"] == {"units": 0, "repeats": 1, "warm_up": 1} and "torch" in session["packages"]


@pytest.mark.parametrize(("images", "kept"), [("none", 0), (1, 1), ("all", 4)])
def test_as_many_images_are_kept_as_asked_for(images: str | int, kept: int, plan: MakePlan, run: Run) -> None:
    small = plan({"draft_only": DRAFT_ONLY}, images=images)
    run(small)
    folder = small.folder / "images" / DRAFT_ONLY.id
    assert len(list(folder.glob("*_diff.png"))) == kept and len(list(folder.glob("*.png"))) == 2 * kept
    assert len(list((small.folder / "images" / SEQUENTIAL.id).glob("*.png"))) == kept


def test_images_on_disk_are_the_sample_and_four_times_the_difference(plan: MakePlan, run: Run) -> None:
    small = plan({"draft_only": DRAFT_ONLY}, labels=(3,), seeds=(1,), images="all")
    run(small)

    def read(cell: Any, suffix: str = "") -> np.ndarray:
        return np.asarray(Image.open(Study(small.folder).image_path(cell.id, 3, 1, suffix)), float) / 255

    a, b, difference = read(DRAFT_ONLY), read(SEQUENTIAL), read(DRAFT_ONLY, "_diff")
    np.testing.assert_allclose(difference, np.clip(4 * np.abs(a - b), 0, 1), atol=6 / 255)
    mae = load_tables(small.folder).samples.set_index("cell")["pixel_mae"][DRAFT_ONLY.id]
    assert abs(np.abs(a - b).mean() - mae) < 2 / 255


def test_noise_floor_pairs_the_seeds_of_a_label(plan: MakePlan, run: Run) -> None:
    small = plan({"sequential": SEQUENTIAL}, seeds=(0, 1, 2))
    _, text = run(small)
    pairs = {(b["label"], b["seed"], b["other_seed"]) for b in records(small, "noise")}
    assert pairs == {(label, *seeds) for label in (0, 3) for seeds in ((0, 1), (0, 2), (1, 2))}
    assert "6 pairs" in text
    run(replace(small, seeds=(0, 1, 2, 3)))
    assert len(records(small, "noise")) == 12
    _, text = run(replace(small, seeds=(0, 1)))
    assert "2 pairs" in text, "pairs with a seed that the command does not ask for are not its own"


def test_batches_give_the_tokens_of_single_images(plan: MakePlan, run: Run, decodes: Decodes) -> None:
    small = plan({"B=1": loop(rule="match_rate"), "B=3": loop(rule="match_rate", batch=3)}, dtype="float64")
    assert run(small)[0] == 0
    assert ("parallel_v1", (0, 0, 1), True) in decodes and ("parallel_v1", (1,), True) in decodes
    samples = load_tables(small.folder).samples
    single, batched = (samples[samples["name"] == name].reset_index(drop=True) for name in ("B=1", "B=3"))
    for column in ("token_agreement", "replaced_tokens", "first_divergent_stage"):
        assert single[column].equals(batched[column])
    assert list(batched["target_calls_alone"]) == list(single["target_calls"])


def test_a_batch_that_was_cut_is_decoded_again_as_a_whole(plan: MakePlan, run: Run) -> None:
    whole, cut = (plan({"B=2": loop(rule="match_rate", batch=2)}, folder=f) for f in ("whole", "cut"))
    run(whole)
    run(cut)
    (path,) = (cut.folder / "ledger").iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    batched = [i for i, line in enumerate(lines) if loop(rule="match_rate", batch=2).id.encode() in line]
    path.write_bytes(b"".join(line for i, line in enumerate(lines) if i not in batched[1:4]))
    assert run(cut)[0] == 0
    assert stable_csv(cut.folder) == stable_csv(whole.folder)
