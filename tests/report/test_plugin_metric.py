"""A metric of one function, from outside the project, is wherever metrics are."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from sdvar_exp import registry
from sdvar_exp.errors import UserError
from sdvar_exp.metrics.quantities import measure, metric, objectives, own
from sdvar_exp.metrics.quantities.fidelity import noise_floor
from sdvar_exp.report import render_table, summarise
from sdvar_exp.report.compare import grouped, paired_differences
from sdvar_exp.report.effects import effects
from sdvar_exp.report.figures import draw_figures
from sdvar_exp.report.material import Material
from sdvar_exp.report.page.cells import table
from sdvar_exp.report.power import power_table
from sdvar_exp.report.significance import comparisons
from sdvar_exp.report.typeset import latex_table, markdown_table
from sdvar_exp.tracking.content import picture_metrics


@pytest.fixture
def blur(entries: None) -> None:
    """A metric of two images, registered for one test."""

    @registry.register("metric", "blur", heading="blur of edges", formula="twice |a − b|", range=(0, 2), better=-1)
    def blur(image_a: np.ndarray, image_b: np.ndarray) -> float:
        """Twice the pixel difference."""
        return 2 * float(np.abs(image_a - image_b).mean())


@pytest.fixture
def blurred(study, blur):
    """The made-up study as if it had been run with the metric."""
    samples = study.samples.assign(blur=2 * study.samples["pixel_mae"])
    return replace(study, samples=samples, noise=study.noise.assign(blur=2 * study.noise["pixel_mae"]))


def test_it_is_computed_with_the_row_and_between_seeds(blur) -> None:
    a, b = np.zeros((3, 4, 4)), np.full((3, 4, 4), 0.25)
    assert measure({"image_a": a, "image_b": b})["blur"] == 0.5
    assert noise_floor({(0, 0): a, (0, 1): b})[0]["blur"] == 0.5
    assert "blur" not in measure({"tokens_a": a, "tokens_b": b}), "its evidence is not there"
    assert "blur" not in {m.name for m in own()} and "blur" in objectives() and "blur" in picture_metrics()


def test_it_is_in_the_summary_and_every_table(blurred, blur) -> None:
    summary = summarise(blurred)
    twice = 2 * summary[["pixel_mae", "pixel_mae_low", "pixel_mae_high", "noise_pixel_mae"]].astype(float)
    found = summary[["blur", "blur_low", "blur_high", "noise_blur"]].astype(float)
    assert np.allclose(found, twice, rtol=0.01, equal_nan=True), "intervals are resampled by a hash of the data"
    console = Console(file=StringIO(), width=160)
    render_table(summary, console)
    assert "blur" in console.file.getvalue() and "blur of edges: Twice the pixel difference." in console.file.getvalue()
    assert "blur of edges" in markdown_table(blurred, summary) and "blur & " in latex_table(blurred, summary)
    numbered = summary.assign(number=range(len(summary)), front=False)
    assert "Twice the pixel difference." in table(numbered)


def test_it_is_in_comparisons(blurred) -> None:
    summary, samples = summarise(blurred), blurred.samples
    a, b = (samples[samples["cell"] == cell].assign(pair=0) for cell in (blurred.runs["cell"].iloc[i] for i in (0, 2)))
    differences = paired_differences(a, b).set_index("metric")["difference"]
    assert differences["blur"] == pytest.approx(2 * differences["pixel_mae"])
    by_strategy = grouped(samples, ["strategy"])
    assert np.allclose(by_strategy["blur"].astype(float), 2 * by_strategy["pixel_mae"].astype(float))
    assert (power_table(blurred, "blur", 0.01)["spread"] > 0).any()
    assert "blur" in set(comparisons(blurred, summary)["metric"])
    assert "blur" in set(effects(blurred)["metric"])


def test_it_has_a_figure_and_a_panel(blurred, tmp_path) -> None:
    summary = summarise(blurred)
    material = Material(blurred, summary.assign(number=range(1, len(summary) + 1)), tmp_path)
    drawn = {
        d.name: d for _, d in draw_figures(material, ["speedup-vs-pixel-difference", "factor-effects", "mask-by-strategy"])
    }
    assert "speedup-vs-blur-of-edges" in drawn
    for name in ("factor-effects", "mask-by-strategy"):
        texts = [axis.get_xlabel() + axis.get_title(loc="left") for axis in drawn[name].figure.axes]
        assert any("blur" in text for text in texts), name


def test_what_an_entry_must_say(entries: None) -> None:

    @registry.register("metric", "bare", heading="bare")
    def bare(image_a: np.ndarray) -> float:
        return 0.0

    with pytest.raises(UserError, match="metric=bare must say formula"):
        metric("bare")

    @registry.register("metric", "bare", heading="bare", formula="0", average="median")
    def worse(image_a: np.ndarray) -> float:
        return 0.0

    with pytest.raises(UserError, match="average must be one of mean, geometric"):
        metric("bare")


def test_one_that_fails_names_itself(entries: None) -> None:

    @registry.register("metric", "broken", heading="broken", formula="1 ÷ 0")
    def broken(image_a: np.ndarray) -> float:
        return 1 / 0

    with pytest.raises(UserError, match="metric=broken failed: ZeroDivisionError"):
        measure({"image_a": np.zeros(3)})


def test_the_same_quantity_against_another_decode() -> None:
    own_baseline = metric("pixel_mae").against_baseline()
    assert own_baseline.name == "pixel_mae_own" and own_baseline.plain_heading == "pixel difference (own baseline)"
    assert own_baseline.range == (0, 1) and not own_baseline.headline and not own_baseline.drawn
