"""Images by f̂: each decoded once, as it would be alone, and no more kept than there is room for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sdvar_exp.cell import ModelSpec, Unit
from sdvar_exp.decoding.api import decode, decode_images
from sdvar_exp.plan import Plan
from sdvar_exp.runner.measuring import pictures
from sdvar_exp.runner.measuring.pictures import Pixels
from sdvar_exp.store import Study
from tests.runner.conftest import loop, simple, tiny

MakePlan = Callable[..., Plan]
Run = Callable[..., tuple[int, str]]
HERE, THERE = ModelSpec("here"), ModelSpec("there")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every image that is decoded."""
    calls: list[int] = []

    def count(pair: object, f_hat: torch.Tensor) -> torch.Tensor:
        calls.append(len(f_hat))
        return decode_images(pair, f_hat)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "decode_images", count)
    return calls


def f_hats(count: int) -> list[torch.Tensor]:
    pair = tiny("float32")
    return [decode(pair, simple("sequential"), [Unit(3, seed)], record=False).f_hat for seed in range(count)]


def test_equal_f_hat_is_decoded_once_and_by_each_model(counted: list[int]) -> None:
    pair, (first, second), found = tiny("float32"), f_hats(2), Pixels()
    images = [found.of(HERE, pair, f) for f in (first, second, first.clone(), second + 0)]
    assert len(counted) == 2
    for f_hat, image in zip((first, second, first, second), images, strict=True):
        np.testing.assert_array_equal(image, decode_images(pair, f_hat)[0].numpy())
    found.of(THERE, pair, first)
    assert len(counted) == 3, "another model may decode the same f̂ otherwise"
    nearly = first.clone()
    nearly.view(-1)[0] = torch.nextafter(nearly.view(-1)[0], torch.tensor(9.0))
    found.of(HERE, pair, nearly)
    assert len(counted) == 4, "the last bit counts"


def test_nobody_can_change_a_kept_image() -> None:
    image = Pixels().of(HERE, tiny("float32"), f_hats(1)[0])
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0, 0] = 1


def test_the_oldest_go_when_there_is_no_more_room(monkeypatch: pytest.MonkeyPatch, counted: list[int]) -> None:
    pair, all_of_them, found = tiny("float32"), f_hats(3), Pixels()
    found.of(HERE, pair, all_of_them[0])
    monkeypatch.setattr(pictures, "KEPT_BYTES", 2 * found.size)
    for f_hat in (all_of_them[1], all_of_them[0], all_of_them[2]):  # the first is asked for again before the third comes
        found.of(HERE, pair, f_hat)
    assert len(found.kept) == 2 and found.size == pictures.KEPT_BYTES
    before = len(counted)
    found.of(HERE, pair, all_of_them[0])
    assert len(counted) == before
    found.of(HERE, pair, all_of_them[1])
    assert len(counted) == before + 1


def test_cells_of_equal_tokens_share_their_images(plan: MakePlan, run: Run, counted: list[int]) -> None:
    cells = {f"γ={gamma}": loop(rule="always", gamma=gamma) for gamma in (1, 2)}
    cells["draft"] = simple("draft_only")
    made = plan(cells, images="all", stage_images=0)
    assert run(made)[0] == 0
    units, files = len(made.labels) * len(made.seeds), []
    for cell in cells.values():
        files.append(sorted((Study(made.folder).folder / "images" / cell.id).glob("*.png")))
    assert [len(f) for f in files] == [2 * units] * len(cells)
    assert len(counted) == units, "the draft's tokens, three times over"
