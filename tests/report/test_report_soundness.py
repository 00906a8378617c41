"""Speed-ups count where the reference timed against itself is shown to be equal to itself."""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sdvar_exp.report import render_table, summarise
from sdvar_exp.report.page.words import paragraphs
from sdvar_exp.report.soundness import alarm, front, sound, unsteady
from sdvar_exp.report.typeset import latex_table, markdown_table

LOUD = "not to be relied on"


def disturbed(new_study, spread: float, middle: float = 1.0):
    """The made-up study whose A/A timings are `middle` times a lognormal of this spread."""
    study = new_study(seeds=4)
    base = study.timings["cell"] == study.runs["cell"].iloc[0]
    noise = middle * np.random.default_rng(3).lognormal(0, spread, int(base.sum()))
    study.timings.loc[base, "baseline_ms"] = study.timings.loc[base, "cell_ms"] * noise
    return study


def test_a_quiet_study_is_sound_and_says_nothing(study):
    summary = summarise(study)
    assert sound(summary).all() and summary["sound"].all() and alarm(summary) == ""
    assert LOUD not in markdown_table(study, summary) + latex_table(study, summary)


@pytest.mark.parametrize(("spread", "middle"), [(0.6, 1.0), (0.001, 1.15), (0.001, 0.93)])
def test_not_shown_different_is_not_equal(new_study, spread, middle):
    """A wide interval that holds 1, and a narrow one outside the band, are one case: the times show nothing."""
    study = disturbed(new_study, spread, middle)
    summary = summarise(study)
    aa = summary[summary["is_baseline"]].iloc[0]
    assert (aa["speedup_low"] < 1 < aa["speedup_high"]) == (spread > 0.1)
    assert not sound(summary).any() and not front(summary).any()
    assert alarm(summary).count("\n") == 0 and f"{aa['speedup']:.3f} [" in alarm(summary)
    for terminal in (True, False):
        console = Console(file=StringIO(), width=120, force_terminal=terminal, color_system=None)
        render_table(summary, console)
        assert LOUD in " ".join(console.file.getvalue().split())
    words = paragraphs(study, summary.assign(front=front(summary)))
    assert LOUD in words and "are faster" not in words and "faster and closer" not in words
    markdown, latex = markdown_table(study, summary), latex_table(study, summary)
    assert LOUD in markdown and LOUD in latex and r"\textcolor{gray}{" in latex and "xcolor" in latex
    assert "**6.1" not in markdown, "no speed-up is the best one"


def test_a_cell_whose_repeats_vary_is_marked_and_named(new_study):
    study = new_study(seeds=4)
    own = study.timings["cell"] == study.runs["cell"].iloc[3]
    study.timings.loc[own, "cell_ms"] *= np.random.default_rng(3).lognormal(0, 0.3, int(own.sum()))
    summary = summarise(study)
    assert summary["unsteady"].tolist() == [i == 3 for i in range(8)]
    assert summary["speedup_spread"].drop(3).between(0.02, 0.07).all() and summary["speedup_spread"][3] > 0.15
    line = unsteady(summary)
    assert line.startswith("unsteady times: ") and line.count(" %)") == 1 and f"in {summary['name'][3]} (" in line
    console = Console(file=StringIO(), width=200, force_terminal=True, color_system=None)
    render_table(summary, console)
    text = " ".join(console.file.getvalue().split())
    assert line in text and text.count("% ~") == 1
    for shown in (paragraphs(study, summary.assign(front=front(summary))), latex_table(study, summary)):
        assert "Unsteady times: repeats of one image vary by more than 10" in shown
    assert unsteady(summarise(new_study(timed=False))) == ""


def test_the_band_is_the_studys_own(new_study):
    study = disturbed(new_study, 0.001, 1.15)
    study.runs["timing_band"] = json.dumps([0.8, 1.2])
    assert sound(summarise(study)).all()
    study.runs["timing_band"] = json.dumps([0.999, 1.2])
    assert sound(summarise(study)).all()
    study.runs["timing_band"] = json.dumps([0.8, 1.1])
    assert not sound(summarise(study)).any()


def test_a_single_unit_shows_nothing(new_study):
    study = new_study(labels=(0,), seeds=1)
    summary = summarise(study)
    assert not sound(summary).any() and "without an interval" in alarm(summary)


def test_without_times_there_is_nothing_to_doubt(new_study):
    summary = summarise(new_study(timed=False))
    assert sound(summary).all() and summary["sound"].isna().all() and alarm(summary) == ""


def test_the_reference_is_one_by_definition_and_never_on_the_front():
    rows = [("base", True, 1.04, 0.0), ("slow", False, 0.99, 0.0), ("same", False, 1.03, 0.0), ("fast", False, 2.0, 0.1)]
    summary = pd.DataFrame(rows, columns=["cell", "is_baseline", "speedup", "pixel_mae"])
    assert front(summary).tolist() == [False, False, True, True]
