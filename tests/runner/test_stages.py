"""Stage-by-stage pictures: what each row shows, for which units, and that they neither change nor outlive a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding.api import decode
from sdvar_exp.plan import Plan
from sdvar_exp.report.source import of_unit
from sdvar_exp.runner.measuring.pictures import token_map
from sdvar_exp.store import Study, load_tables
from sdvar_exp.store.images import STAGE_COLOURS
from tests.runner.conftest import loop, simple, tiny

MakePlan = Callable[..., Plan]
Run = Callable[..., tuple[int, str]]
SIDE = 20
CELLS = {
    "sequential": simple("sequential"),
    "draft_only": simple("draft_only"),
    "test3": simple("test3", entry_num=2),
    "exact": loop(),
    "continue": loop(on_reject="continue"),
    "batch": loop(batch=2),
    "early": simple("model_schedule", stages="T3 e2", exit_depth=1),
    "skipped": simple("model_schedule", stages="T3 s2"),
}


def picture(plan: Plan, cell: Cell, label: int, seed: int, suffix: str = "_stages") -> np.ndarray:
    return np.asarray(Image.open(Study(plan.folder).image_path(cell.id, label, seed, suffix)))


def tiles(array: np.ndarray, row: int) -> list[np.ndarray]:
    """Tiles of one row of a stage picture."""
    part = array[row * SIDE : (row + 1) * SIDE]
    return [part[:, i : i + SIDE] for i in range(0, part.shape[1], SIDE)]


def colours(tile: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(int(v) for v in pixel) for pixel in tile.reshape(-1, 3)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Kept for all tests of this file once a test has made it."""
    return {}


@pytest.fixture
def done(plan: MakePlan, run: Run, made: Any) -> Plan:
    if "plan" not in made:
        made["plan"] = plan(CELLS, labels=(3,), images="all", stage_images=1)
        assert run(made["plan"])[0] == 0
    return made["plan"]


@pytest.mark.parametrize("name", CELLS)
def test_the_last_tile_is_the_sample_and_the_shape_follows_the_stages(name: str, done: Plan) -> None:
    array, stages = picture(done, CELLS[name], 3, 0), tiny("float32").pyramid.stages
    assert array.shape == (3 * SIDE, stages * SIDE, 3)
    sample = picture(done, CELLS[name], 3, 0, "").astype(int)
    assert np.abs(tiles(array, 2)[-1].astype(int) - sample).max() <= int(name == "batch")


def test_rows_say_who_made_a_stage(done: Plan) -> None:
    grey, light = STAGE_COLOURS["target"], STAGE_COLOURS["draft"]
    alone = picture(done, CELLS["sequential"], 3, 0)
    assert all(colours(t) == {grey} for t in tiles(alone, 1))
    assert all(colours(t) == {(255, 255, 255)} for t in tiles(alone, 0))
    draft = picture(done, CELLS["draft_only"], 3, 0)
    assert all(colours(t) == {light} for t in tiles(draft, 1))
    assert np.array_equal(draft[:SIDE], draft[2 * SIDE :])
    handed = picture(done, CELLS["test3"], 3, 0)
    assert [colours(t) for t in tiles(handed, 1)] == [{light}] * 2 + [{grey}] * (len(tiles(handed, 1)) - 2)


def test_skipped_stages_have_no_tokens_and_change_no_image(done: Plan) -> None:
    array, white = picture(done, CELLS["skipped"], 3, 0), {(255, 255, 255)}
    assert [colours(t) == white for t in tiles(array, 1)] == [False] * 3 + [True] * 2
    assert all(colours(t) == white for t in tiles(array, 0))
    whole = picture(done, CELLS["sequential"], 3, 0)
    for k in range(5):
        assert np.array_equal(tiles(array, 2)[k], tiles(whole, 2)[min(k, 2)])
    early = picture(done, CELLS["early"], 3, 0)
    assert all(colours(t) == {STAGE_COLOURS["target"]} for t in tiles(early, 1))


def test_skipped_stages_equal_no_stage_of_the_baseline(done: Plan) -> None:
    tables, cell = load_tables(done.folder), CELLS["skipped"].id
    rows = tables.samples[tables.samples["cell"] == cell]
    assert not rows["identical"].any() and not rows["near_tie"].any() and (rows["first_divergent_stage"] == 3).all()
    assert (rows["target_calls"] == 3).all() and (rows["draft_calls"] == 0).all()
    stages = of_unit(tables.stages, cell, 3, 0).sort_values("stage")
    assert stages["source"].tolist() == ["target"] * 3 + ["skipped"] * 2
    assert stages["token_agreement"].tolist() == [1, 1, 1, 0, 0] and stages["passed"].isna().all()


@pytest.mark.parametrize("name", ["exact", "continue"])
def test_the_map_has_the_tokens_that_were_replaced(name: str, done: Plan) -> None:
    cell, pair = CELLS[name], tiny("float32")
    decoded = decode(pair, cell, [Unit(3, 0)])
    array = picture(done, cell, 3, 0)
    replaced = 0
    for k, (tokens, proposed) in enumerate(zip(decoded.tokens, decoded.proposed, strict=True)):
        assert proposed is not None
        kinds = np.where((tokens == proposed)[0].numpy(), "kept", "replaced")
        np.testing.assert_array_equal(tiles(array, 1)[k], token_map(kinds, pair.pyramid.patch_nums[k], SIDE))
        same = np.array_equal(tiles(array, 0)[k], tiles(array, 2)[k])
        assert same or (kinds == "replaced").any(), "a proposal that was kept is what was committed"
        replaced += int((kinds == "replaced").sum())
    assert replaced == decoded.counts.replaced_tokens[0] > 0
    row = load_tables(done.folder).samples.query("cell == @cell.id and seed == 0").iloc[0]
    assert row["replaced_tokens"] == replaced


def test_without_recording_nothing_is_kept_of_proposals() -> None:
    assert decode(tiny("float32"), CELLS["exact"], [Unit(3, 0)], record=False).proposed == ()


def test_token_map_is_nearest_neighbour() -> None:
    kinds = np.array(["kept", "replaced", "target", "draft"])
    array = token_map(kinds, 2, 5)
    assert [tuple(array[y, x]) for y, x in ((0, 0), (2, 2), (0, 3), (3, 0), (4, 4))] == [
        STAGE_COLOURS[kind] for kind in ("kept", "kept", "replaced", "target", "draft")
    ]


@pytest.mark.parametrize(("asked", "images", "kept"), [(0, "all", 0), (1, "all", 1), (9, "all", 4), (3, 2, 2), (1, "none", 0)])
def test_as_many_as_asked_for_among_the_images_kept(asked: int, images: str | int, kept: int, plan: MakePlan, run: Run) -> None:
    small = plan({"draft_only": CELLS["draft_only"]}, images=images, stage_images=asked)
    run(small)
    for cell in (CELLS["draft_only"], CELLS["sequential"]):
        assert len(list((small.folder / "images" / cell.id).glob("*_stages.png"))) == kept


def test_a_second_run_makes_the_same_bytes_or_nothing(plan: MakePlan, run: Run) -> None:
    first, second = (plan({"exact": CELLS["exact"]}, images="all", stage_images=1, folder=name) for name in "ab")
    run(first)
    run(second)
    paths = sorted(first.folder.rglob("*_stages.png"))
    assert [p.read_bytes() for p in paths] == [(second.folder / p.relative_to(first.folder)).read_bytes() for p in paths]
    stamps = [p.stat().st_mtime_ns for p in paths]
    run(first)
    assert [p.stat().st_mtime_ns for p in paths] == stamps


def test_gc_knows_pictures_without_a_row(tmp_path: Path) -> None:
    from sdvar_exp.store.images import IMAGE_NAME

    found = IMAGE_NAME.fullmatch("12_34_stages.png")
    assert found and (found[1], found[2]) == ("12", "34")
