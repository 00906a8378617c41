"""Features of images in the ledger: what they are of, that a resume repeats them, and the table that follows from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdvar_exp.cli import main
from sdvar_exp.report.quality import quality_table
from sdvar_exp.store import load_tables
from sdvar_exp.store.features import read_features
from sdvar_exp.store.stable import stable_csv

pytestmark = pytest.mark.needs("weights")

COMMAND = [
    "run",
    "study=q",
    "tracking=none",
    "timing.units=0",
    "images=all",
    "labels=[1,8]",
    "seeds=2",
    "-m",
    "strategy=sequential,draft_only",
]


def test_features_are_those_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from PIL import Image

    from sdvar_exp.models.classifier import load_classifier
    from sdvar_exp.models.pair import WEIGHTS

    monkeypatch.chdir(tmp_path)
    assert main(COMMAND) == 0
    folder = tmp_path / "results" / "q"
    found = read_features(folder)
    assert len(found) == 2
    base, other = found.values()
    assert np.array_equal(base.features, base.baseline) and np.array_equal(other.baseline, base.features)
    assert not np.array_equal(other.features, base.features)
    model = load_classifier(WEIGHTS / "classifier.safetensors")
    for cell, features in found.items():
        for i, (label, seed) in enumerate([(1, 0), (1, 1), (8, 0), (8, 1)]):
            png = np.asarray(Image.open(folder / "images" / cell / f"{label}_{seed}.png").convert("RGB"), np.float32) / 255
            seen = model.features(torch.from_numpy(png).permute(2, 0, 1)[None])[0].numpy()
            assert np.abs(seen - features.features[i]).max() < 0.02 * np.abs(seen).max()  # eight bits, float16
    table = quality_table(folder)
    assert table["n"].tolist() == [4, 4] and table["fd_real"].isna().all()
    assert table["note"].str.contains("needs at least 100 samples, there are 4").all()
    assert (table["fd_baseline"].iloc[0], table["precision_baseline"].iloc[0]) == (0.0, 1.0)
    samples = stable_csv(folder)
    assert "predicted_class,class_correct" in samples.splitlines()[0]


def test_an_image_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdvar_exp.models.classifier import SIDE, load_classifier
    from sdvar_exp.models.pair import WEIGHTS
    from sdvar_exp.runner.measuring import features

    monkeypatch.setattr(features, "KEPT", 2)
    found = features.Extractor(load_classifier(WEIGHTS / "classifier.safetensors"), "digest")
    images = np.random.default_rng(0).random((3, 3, SIDE, SIDE), dtype=np.float32)
    seen = [found.see(image) for image in images]
    assert len({s.features for s in seen}) == 3 and len(found.kept) == 2
    assert found.see(images[2].copy()) is seen[2], "the same pixels in another array"
    again = found.see(images[0])
    assert again is not seen[0] and again == seen[0], "it was forgotten, and looks the same"


def test_quality_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(COMMAND) == 0
    capsys.readouterr()
    assert main(["quality", "q", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "sequential" and rows[0]["fd_real"] is None
    assert (tmp_path / "results" / "q" / "tables" / "quality.csv").is_file()
    assert main(["quality", "q"]) == 0
    out = capsys.readouterr().out
    assert "class accuracy" in out and "null: all distances to real: needs at least 100 samples" in out


def test_a_distribution_of_enough_images_has_distances() -> None:
    """The test set against itself, in halves: near zero, precise and complete."""
    from sdvar_exp.metrics.distribution import compare, test_features

    features, labels, _ = test_features()
    assert features.shape == (10_000, 64)
    found = compare(features[:1000], labels[:1000], features[1000:], labels[1000:])
    assert found["fd"].value is not None and found["kid"].value is not None and found["precision"].value is not None
    only = np.flatnonzero(labels[:1500] == 1)
    trousers = compare(features[only], labels[only], features[1500:], labels[1500:])["kid"].value
    assert trousers is not None and abs(found["kid"].value) < 0.05 * trousers
    assert 0.6 < found["precision"].value < 1 and 0.6 < found["recall"].value < 1


@pytest.mark.long
def test_a_run_warns_of_nothing(tmp_path: Path, repository: Path) -> None:
    """In a process of its own, as libraries warn once a process: read-only arrays that are shared were warned of."""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [
        sys.executable,
        "-m",
        "sdvar_exp",
        "run",
        "strategy=draft_only",
        "labels=1",
        "seeds=1",
        "timing.units=0",
        "tracking=none",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_early_exits_and_skipped_stages_have_pictures_and_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = "cells=[['strategy.stages=T8e2'],['strategy.stages=T8s2']]"
    settings = ["study=rivals", "images=all", "stage_images=1", "labels=[1]", "seeds=1", "batch=1", cells]
    assert main(["run", "experiment=sandwich", *settings]) == 0
    folder = tmp_path / "results/rivals"
    found = read_features(folder)
    assert len(found) == 3 and len({features.features.tobytes() for features in found.values()}) == 3
    table = load_tables(folder)
    skipped = table.stages[table.stages["source"] == "skipped"]
    assert skipped["stage"].tolist() == [8, 9] and (skipped["token_agreement"] == 0).all()
    samples = table.samples.set_index("strategy_spec")["identical"]
    assert samples["sequential"] and samples.sum() == 1
    assert (folder / "figures/stages-of-a-decode.png").is_file()
    assert '"source":"skipped"' in (folder / "report.html").read_text()
