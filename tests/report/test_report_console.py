"""The table that a run ends with fits its terminal and says what it compares."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from math import isnan

import pytest
from rich.console import Console
from scipy.stats import beta

from sdvar_exp.report import render_table, summarise
from sdvar_exp.report.console import number, with_interval


def shown(summary, width: int = 100, terminal: bool = True) -> list[str]:
    console = Console(file=StringIO(), width=width, force_terminal=terminal, color_system=None)
    render_table(summary, console)
    return console.file.getvalue().splitlines()


@pytest.fixture(scope="module")
def summary(study):
    return summarise(study)


@pytest.mark.parametrize("width", [40, 80, 96, 100, 130, 200])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(summary, width):
    lines = shown(summary, width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    text = " ".join(" ".join(lines).split())
    for piece in ("sequential (A/A)", "[1.41, 1.44]", "24/24", "0.118", "84 pairs"):
        assert piece in text


def test_eighty_columns_drop_columns_instead_of_becoming_prose(summary):
    lines = shown(summary, width=80)
    assert max(map(len, lines)) <= 80 and not any(line.startswith("sequential (A/A): ") for line in lines)
    dropped = " ".join(lines).partition("left out for want of room: ")[2].partition(";")[0]
    head = " ".join(" ".join(lines[:2]).split())
    assert all(word in head for word in ("calls", "speed-up", "difference", "identical")) and "lossless" in dropped
    assert len({len(shown(summary, width=w)[0].split()) for w in (60, 80, 100, 200)}) > 1


def test_a_pipe_gets_one_line_per_cell(summary):
    lines = shown(summary, width=80, terminal=False)
    line = next(x for x in lines if x.startswith("parallel_v1 γ=2 exact correct"))
    assert (
        " ".join(line.split()[4:])
        == "8.0 [7.6, 8.3] 1.90 2.14 0.81 [0.80, 0.83] 0 1.000 1.000 – 24/24 [≥ 0.88] 49.3 4 % tokens"
    )
    hybrid = next(x for x in lines if x.startswith("hybrid"))
    assert all(text in hybrid for text in (" 4.2 [3.8, 4.5] ", " 0.933 [0.923, 0.942] ", " 0.777 [0.744, 0.808] ", " 0/24 "))
    assert "24/24  " in next(x for x in lines if x.startswith("sequential")), "a baseline is itself"
    assert sum(x.startswith("test3") for x in lines) == 2


def test_the_legend_says_what_is_compared(summary):
    text = "\n".join(shown(summary, terminal=False))
    assert "reference time ÷ cell time" in text
    assert "of 24 images a cell" in text
    assert "n = 24 images a cell from 3 labels" in text
    assert "another seed: two reference images of one label" in text
    assert "near-ties" not in text


def test_the_legend_says_how_far_off_the_worst_image_of_a_promise_is(new_study):
    """One image of a cell that is to give the baseline's tokens differs from stage 4 on, by 0.25 somewhere."""
    study = new_study()
    rows = study.samples["cell"] == study.ids["parallel_v1 γ=2 exact correct"]
    study.samples = study.samples.assign(pixel_max_abs=0.0, first_divergent_stage=None)
    kept = "lossless: 1 cell with every token as promised, largest difference of a pixel 0"
    assert kept in shown(summarise(study), terminal=False)
    worst = study.samples.index[rows][3]
    study.samples.loc[worst, ["identical", "pixel_max_abs", "first_divergent_stage"]] = [False, 0.25, 4]
    study.samples.loc[study.samples.index[rows][5], ["identical", "first_divergent_stage"]] = [False, 6]
    text = "\n".join(shown(summary := summarise(study), terminal=False))
    said = "22 of 24 identical, first divergent stage 4, largest difference of a pixel 0.250"
    assert f"lossless: parallel_v1 γ=2 exact correct: {said}" in text and "as promised" not in text
    bound = 1 - beta.ppf(0.95, 3, 22)  # Clopper and Pearson, one-sided
    assert f"22/24 [≥ {bound - 0.005:.2f}]" in text and bound == pytest.approx(1 - summary["different_bound"][4])
    own = study.samples.assign(pixel_mae_own=0.0, pixel_max_abs_own=0.125, first_divergent_stage_own=None)
    row = summarise(replace(study, samples=own)).iloc[4]
    assert row["largest_difference"] == 0.125 and isnan(row["earliest_divergence"]), "of the own baseline where there is one"


def test_the_legend_says_why_times_are_missing(new_study):
    study = new_study(seeds=1)
    study.timings["contended"] = True
    text = "\n".join(shown(summarise(study), terminal=False))
    assert (
        "speed-up: nothing timed alone; 24 images timed only beside another process" in text and "measures them again" in text
    )


def test_the_legend_of_a_bare_study(new_study):
    study = new_study(seeds=1, timed=False)
    study.noise = study.noise.iloc[:0]
    study.samples["near_tie"] = [True] + [None] * (len(study.samples) - 1)
    lines = shown(summarise(study), terminal=False)
    text = "\n".join(lines)
    assert "nothing timed" in text
    assert "another seed: not measured" in text
    assert "near-ties: 1 " in text
    assert "A/A" not in text


def test_an_empty_summary(summary):
    assert shown(summary.iloc[:0]) == ["no cells yet"]


def test_names_are_not_markup(new_study):
    study = new_study(seeds=2)
    study.runs.loc[1, "name"] = "odd [bold] name [x, y]"
    assert any("odd [bold] name [x, y]" in line for line in shown(summarise(study), width=140))


def test_numbers():
    assert number(None, 2) == number(float("nan"), 2) == "–"
    assert number(0.0, 3) == "0"
    assert number(1e-7, 3) == "1e-07"
    assert number(0.0371, 3) == "0.037"
    cell = {"speedup": 1.5, "speedup_low": 1.4, "speedup_high": 1.61}
    assert with_interval(cell, "speedup", 2) == "1.50 [1.40, 1.61]"
    assert with_interval({**cell, "speedup_low": None}, "speedup", 2) == "1.50"
