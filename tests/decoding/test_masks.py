"""Every mask as drawn, also for passes that start behind a cache."""

from __future__ import annotations

import numpy as np
import pytest

from sdvar_exp.decoding.masks import materialise, spans
from sdvar_exp.errors import UserError
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose, declared, names
from tests.decoding.cells import MASKS

SMALL = Pyramid((1, 2, 3))  # 1 + 4 + 9 tokens


def drawn(text: str) -> np.ndarray:
    """`#` may attend, `.` may not; blanks only help the eye."""
    rows = [line.replace(" ", "") for line in text.strip().splitlines()]
    return np.array([[c == "#" for c in row] for row in rows])


FULL = "# #### #########"
DRAWN = {
    # (mask, first stage, stop): rows of the pass × columns up to its end
    ("block_causal", 0, 2): """
        # ....
        # ####
        # ####
        # ####
        # ####""",
    ("token_causal_blocks", 0, 2): """
        # ....
        # #...
        # .#..
        # ..#.
        # ...#""",
    ("token_causal_blocks_entry_full", 0, 2): """
        # ....
        # ####
        # ####
        # ####
        # ####""",
    ("block_diagonal", 0, 2): """
        # ....
        . ####
        . ####
        . ####
        . ####""",
    ("block_diagonal_entry_full", 0, 2): """
        # ....
        # ####
        # ####
        # ####
        # ####""",
    ("no_prefix", 1, 2): """
        . ####
        . ####
        . ####
        . ####""",
    ("no_prefix", 2, 3): "\n".join([". .... #########"] * 9),
    # passes that start behind a cached stage
    ("block_causal", 1, 3): """
        # #### .........
        # #### .........
        # #### .........
        # #### .........
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########""",
    ("token_causal_blocks", 1, 3): """
        # #... .........
        # .#.. .........
        # ..#. .........
        # ...# .........
        # #### #........
        # #### .#.......
        # #### ..#......
        # #### ...#.....
        # #### ....#....
        # #### .....#...
        # #### ......#..
        # #### .......#.
        # #### ........#""",
    ("token_causal_blocks_entry_full", 1, 3): """
        # #... .........
        # .#.. .........
        # ..#. .........
        # ...# .........
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########""",
    ("block_diagonal", 1, 3): """
        . #### .........
        . #### .........
        . #### .........
        . #### .........
        . .... #########
        . .... #########
        . .... #########
        . .... #########
        . .... #########
        . .... #########
        . .... #########
        . .... #########
        . .... #########""",
    ("block_diagonal_entry_full", 1, 3): """
        . #### .........
        . #### .........
        . #### .........
        . #### .........
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########
        # #### #########""",
    # one stage behind a cache
    ("block_causal", 2, 3): "\n".join([FULL] * 9),
    ("block_diagonal", 2, 3): "\n".join([". .... #########"] * 9),
    ("block_diagonal_entry_full", 2, 3): "\n".join([FULL] * 9),
    ("token_causal_blocks_entry_full", 1, 2): "\n".join(["# ####"] * 4),
    ("token_causal_blocks", 1, 2): """
        # #...
        # .#..
        # ..#.
        # ...#""",
    ("token_causal_blocks", 2, 3): "\n".join("# #### " + "." * i + "#" + "." * (8 - i) for i in range(9)),
    ("token_causal_blocks_entry_full", 2, 3): "\n".join([FULL] * 9),
    ("block_diagonal", 1, 2): "\n".join([". ####"] * 4),
    ("block_diagonal_entry_full", 1, 2): "\n".join(["# ####"] * 4),
}


@pytest.mark.parametrize(("name", "first", "stop"), DRAWN)
def test_drawn(name: str, first: int, stop: int) -> None:
    np.testing.assert_array_equal(materialise(choose("mask", name), SMALL, first, stop), drawn(DRAWN[name, first, stop]))


# by stage: row = stage of the row, column = stage of the column
LOCAL = {  # window: rows
    1: ["#...", "##..", "#.#.", "#..#"],
    2: ["#...", "##..", "###.", "#.##"],
    3: ["#...", "##..", "###.", "####"],
    9: ["#...", "##..", "###.", "####"],
}


@pytest.mark.parametrize("window", LOCAL)
@pytest.mark.parametrize("first", range(4))
def test_local_stages_looks_back_a_window_and_always_at_stage_0(window: int, first: int) -> None:
    pyramid = Pyramid((1, 2, 3, 4))
    got = materialise(choose("mask", "local_stages", window=window), pyramid, first, 4)
    for i, row in enumerate(got, start=pyramid.offsets[first]):
        wanted = LOCAL[window][pyramid.stage_of[i]]
        assert row.tolist() == [wanted[k] == "#" for k in pyramid.stage_of]


def test_recomputed_rows_stand_before_and_are_block_causal() -> None:
    """A pass over stage 2 that feeds stage 1 again."""
    got = materialise(choose("mask", "block_diagonal"), SMALL, 2, 3, fed=1)
    expected = "\n".join(["# #### ........."] * 4 + [". .... #########"] * 9)
    np.testing.assert_array_equal(got, drawn(expected))
    again = materialise(choose("mask", "block_causal"), SMALL, 2, 3, fed=0)
    np.testing.assert_array_equal(again, materialise(choose("mask", "block_causal"), SMALL, 0, 3))
    same = materialise(choose("mask", "block_diagonal"), SMALL, 2, 3, fed=2)
    np.testing.assert_array_equal(same, materialise(choose("mask", "block_diagonal"), SMALL, 2, 3))


@pytest.mark.parametrize("mask", [m for m in MASKS if not m.endswith("entry_full") and m != "no_prefix"] + ["local_stages"])
def test_a_mask_that_names_no_entry_does_not_depend_on_how_stages_are_grouped(mask: str) -> None:
    pyramid = Pyramid((1, 2, 3, 5))
    whole = materialise(choose("mask", mask), pyramid, 0, 4)
    for first in range(4):
        for stop in range(first + 1, 5):
            part = materialise(choose("mask", mask), pyramid, first, stop)
            np.testing.assert_array_equal(part, whole[pyramid.rows(first, stop), : pyramid.offsets[stop]])


@pytest.mark.parametrize("mask", ["token_causal_blocks_entry_full", "block_diagonal_entry_full"])
def test_a_mask_with_an_entry_does(mask: str) -> None:
    whole = materialise(choose("mask", mask), SMALL, 0, 3)
    part = materialise(choose("mask", mask), SMALL, 0, 2)
    assert not np.array_equal(part, whole[:5, :5])


def test_every_row_sees_itself_and_nothing_later_than_its_stage() -> None:
    pyramid = Pyramid((1, 3, 4))
    for name in names("mask"):
        for first in range(2 if name == "no_prefix" else 0, 3):
            got = materialise(choose("mask", name), pyramid, first, 3)
            for i, row in enumerate(got, start=pyramid.offsets[first]):
                assert row[i]
                assert not row[pyramid.offsets[pyramid.stage_of[i] + 1] :].any()


def test_a_matrix_cannot_be_changed_by_who_holds_it() -> None:
    got = materialise(choose("mask", "block_causal"), SMALL, 0, 3)
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = False


@pytest.mark.parametrize(("first", "stop"), [(0, 0), (2, 2), (2, 1), (-1, 2), (0, 4)])
def test_passes_that_do_not_exist(first: int, stop: int) -> None:
    with pytest.raises(UserError, match=f"a pass needs 0 ≤ first < stop ≤ 3, got {first}, {stop}"):
        materialise(choose("mask", "block_causal"), SMALL, first, stop)


def test_a_window_below_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"mask.window must be ≥ 1, got 0"):
        choose("mask", "local_stages", window=0)


def test_runs_say_what_the_matrix_says() -> None:
    """Every mask, pass and offset: the runs fill in the matrix again; a causal pass has one run per stage."""
    p = Pyramid((1, 2, 3, 4))
    for name in ("block_causal", "block_diagonal", "block_diagonal_entry_full", "token_causal_blocks", "local_stages"):
        for first in range(p.stages):
            for stop in range(first + 1, p.stages + 1):
                matrix = materialise(choose("mask", name), p, first, stop)
                runs = spans(matrix, p.stages)
                if runs is None:
                    assert name in ("token_causal_blocks", "local_stages") and stop > 1
                    continue
                filled = np.zeros_like(matrix)
                for a, b, c, d in runs:
                    filled[a:b, c:d] = True
                assert np.array_equal(filled, matrix)
                assert len(runs) <= stop - first
    assert spans(materialise(choose("mask", "block_causal"), p, 1, 3), 4) == ((0, 4, 0, 5), (4, 13, 0, 14))
    assert spans(materialise(choose("mask", "token_causal_blocks"), p, 1, 3), 4) is None


def test_codes_of_the_sdvar_sources_and_the_one_that_the_target_is_trained_with() -> None:
    codes = {name: declared("mask", name, "code") for name in names("mask") if declared("mask", name, "code") is not None}
    assert list(sorted(codes, key=codes.__getitem__)) == [
        *("no_prefix", "token_causal_blocks", "token_causal_blocks_entry_full", "block_causal"),
        *("block_diagonal", "block_diagonal_entry_full"),
    ]
    assert sorted(codes.values()) == list(range(6))
    assert [name for name in names("mask") if declared("mask", name, "trained")] == ["block_causal"]
