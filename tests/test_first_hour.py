"""A first hour from a user's view: every number that the commands print is worked out again, from images and counts alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from sdvar_exp.cli import main
from tests.tracking.reading import read_run

pytestmark = [pytest.mark.long, pytest.mark.needs("weights")]
Say = Callable[..., str]
LABELS, SEEDS = (0, 3), range(3)
UNITS = [(label, seed) for label in LABELS for seed in SEEDS]
RUN = (
    "run study=hour strategy=sequential,test3,parallel_v1 acceptance=exact strategy.entry_num=5 labels=[0,3] seeds=3 images=all "
    "timing.units=2 timing.repeats=1 threads=1 tracking=none"
)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command line that must go well; what it prints."""

    def run(line: str, code: int = 0) -> str:
        capsys.readouterr()
        found = main(shlex.split(line))
        out, err = capsys.readouterr()
        assert found == code and "Traceback" not in err, err
        return out

    return run


def image(cell: str, label: int, seed: int) -> np.ndarray:
    """An image that the run kept, on [0, 1]: known to half of 1/255."""
    with Image.open(Path("results/hour/images") / cell / f"{label}_{seed}.png") as picture:
        return np.asarray(picture.convert("RGB"), np.float64) / 255


def t_interval(values: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Of a mean over labels of three seeds each: the spread within labels, pooled, on Satterthwaite's degrees of freedom."""
    parts = [values[labels == label] for label in LABELS]
    variances = np.array([2 * part.var(ddof=1) for part in parts])  # n_h - 1 = 2 times the variance within a label
    error = np.sqrt(variances.sum() / 4 / values.size)
    freedom = np.clip(variances.sum() ** 2 / (variances**2 / 4).sum() - 2, 3, 4)
    reach = stats.t.ppf(0.975, freedom) * error
    return values.mean() - reach, values.mean() + reach


def test_a_first_hour(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "3 cells × 2 labels × 3 seeds = 18 units" in say(RUN.replace("run", "plan", 1))
    printed = say(RUN)
    assert "18/18" in printed and "page     results/hour/report.html" in printed
    samples = pd.read_csv("results/hour/tables/samples.csv")
    ids = samples.groupby("strategy")["cell"].first()
    assert sorted(ids.index) == ["parallel_v1", "sequential", "test3"] and len(samples) == 18

    differences = {
        strategy: np.array([np.abs(image(cell, *unit) - image(ids["sequential"], *unit)).mean() for unit in UNITS])
        for strategy, cell in ids.items()
    }
    labels = np.array([label for label, _ in UNITS])
    rows = {row["strategy"]: row for row in json.loads(say("table hour --json"))}
    for strategy, row in rows.items():
        assert row["n"] == 6 and row["pixel_mae"] == pytest.approx(differences[strategy].mean(), abs=1 / 255 / 2)
    low, high = t_interval(differences["test3"], labels)
    assert (rows["test3"]["pixel_mae_low"], rows["test3"]["pixel_mae_high"]) == pytest.approx((low, high), abs=1 / 255)
    assert rows["parallel_v1"]["identical"] == 6 and rows["parallel_v1"]["largest_difference"] == 0
    assert rows["test3"]["target_calls"] == 5 and rows["sequential"]["target_calls"] == 10
    assert rows["parallel_v1"]["different_bound"] == pytest.approx(1 - 0.05 ** (1 / 6)), "all of six"
    assert "6/6 [≥ 0.60]" in say("table hour") and "lossless: 1 cell with every token as promised" in say("table hour")

    by_label = {row["label"]: row for row in json.loads(say("table hour --group label --json"))}
    for label in LABELS:  # cells of one image share its noise: the three seeds are the draws, not the nine rows
        means = np.mean([found[labels == label] for found in differences.values()], axis=0)
        assert by_label[label]["units"] == 3 and by_label[label]["cells"] == 3
        assert by_label[label]["pixel_mae"] == pytest.approx(means.mean(), abs=1 / 255 / 2)
        bounds = (by_label[label]["pixel_mae_low"], by_label[label]["pixel_mae_high"])
        assert bounds == pytest.approx((means.min(), means.max()), abs=1 / 255), "two degrees of freedom: the values' range"

    (row,) = json.loads(say("""table hour --where "strategy == 'test3' and label == 3" --json"""))
    assert row["pixel_mae"] == pytest.approx(differences["test3"][3:].mean(), abs=1 / 255 / 2) and row["n"] == 3
    kept = {row["strategy"] for row in json.loads(say("table hour --where 'pixel_mae > 0' --json"))}
    assert kept == {"test3"}

    found = json.loads(say("diff hour:strategy=parallel_v1 hour:strategy=test3 --json"))
    (changed,) = [row for row in found["metrics"] if row["metric"] == "pixel_mae"]
    assert (changed["n"], changed["a"]) == (6, 0) and changed["difference"] == pytest.approx(
        differences["test3"].mean(), abs=0.002
    )
    say("diff hour:strategy=parallel_v1 hour:strategy=test3 --fail-on 'pixel_mae>0.001'", code=1)

    plan = {row["name"]: row for row in json.loads(say("power hour --metric pixel_mae --effect 0.01 --json"))}
    (asked,) = [row for name, row in plan.items() if name.startswith("test3")]
    values = samples[samples["strategy"] == "test3"].groupby("label")["pixel_mae"]
    spread = np.sqrt(values.var(ddof=1).mean())
    assert asked["spread"] == pytest.approx(spread) and asked["freedom"] == 4
    needed = next(m for m in count(2) if power(0.01, spread, m) >= 0.8)
    assert asked["needed"] == needed and asked["images"] == 2 * needed

    say("export hour --cell strategy=test3 --to out.npz")
    with np.load("out.npz") as archive:
        mine = {image(ids["test3"], *unit).tobytes() for unit in UNITS}
        assert {(array / 255).tobytes() for array in archive["arr_0"]} == mine and archive["arr_0"].dtype == np.uint8
    say("report hour --out page.html")
    page = Path("page.html").read_text(encoding="utf-8")
    assert "parallel_v1 exact" in page and f"{rows['test3']['pixel_mae']:.3f}" in page

    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "offline" in say("push hour")
    runs = [read_run(folder) for folder in Path("results/hour").rglob("offline-run-*")]
    sent = {run.run["id"]: run for run in runs if run.summary.get("target_calls") is not None}
    (test3,) = [run for run in sent.values() if run.summary["target_calls"] == 5]
    assert test3.summary["pixel_mae"] == pytest.approx(rows["test3"]["pixel_mae"])

    assert say("gc hour").endswith("0 things, 0 kB to remove\n")


def power(effect: float, spread: float, seeds: int) -> float:
    """Chance that the t interval over two labels of so many seeds leaves 0 out."""
    freedom, shift = 2 * (seeds - 1), effect / spread * np.sqrt(2 * seeds)
    reach = stats.t.ppf(0.975, freedom)
    return float(stats.nct.sf(reach, freedom, shift) + stats.nct.cdf(-reach, freedom, shift))
