"""The second shipped pair: its files, its decoding, and that its images are judged by its own classifier and test set."""

from __future__ import annotations

import json
import runpy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.cli import main
from sdvar_exp.decoding import decode, decode_images, make_noise
from sdvar_exp.errors import UserError
from sdvar_exp.metrics.distribution import test_features as features_of_test_set
from sdvar_exp.models.checkpoint import sha256
from sdvar_exp.models.files import WEIGHTS, shipped_folder
from sdvar_exp.models.pair import Pair, load_pair
from sdvar_exp.registry import choose
from sdvar_exp.report import quality
from sdvar_exp.report.classes import classes_of
from sdvar_exp.store.features import CellFeatures, read_features

pytestmark = pytest.mark.needs("weights")

FOLDER = WEIGHTS / "emoji"
EMBEDDED, EMOJI = (json.loads((folder / "classifier.json").read_text())["sha256"] for folder in (WEIGHTS, FOLDER))
STUDY = ["study=e", "model=emoji", "tracking=none", "timing.units=0", "images=all", "stage_images=0"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of each class by the target and by the draft."""
    folder = tmp_path_factory.mktemp("results")
    words = [*STUDY, f"results_dir={folder}", "labels=all", "seeds=4", "-m", "strategy=sequential,draft_only"]
    assert main(["run", *words]) == 0
    return folder / "e"


def test_it_is_the_pair_that_its_card_describes() -> None:
    card, pair = json.loads((FOLDER / "card.json").read_text()), load_pair("emoji")
    assert shipped_folder("emoji") == FOLDER and shipped_folder("embedded") == WEIGHTS
    assert pair.pyramid.patch_nums == (1, 2, 3, 4, 5, 6, 8, 10, 12) and pair.pyramid.total == 399
    assert (pair.num_classes, pair.target.vocab_size, pair.vae.downsample * pair.pyramid.side) == (9, 512, 48)
    for role in ("vae", "target", "draft", "classifier"):
        assert card[role]["sha256"] == sha256(FOLDER / f"{role}.safetensors")
        assert pair.hashes.get(role, card[role]["sha256"]) == card[role]["sha256"]
    assert card["classifier"] == json.loads((FOLDER / "classifier.json").read_text())
    assert card["classifier"]["features_sha256"] == sha256(FOLDER / "test_features.safetensors")
    assert not (FOLDER / "draft_plain.safetensors").exists(), "its card calls it left out"
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 16 * 2**20


def test_its_card_is_rendered_from_its_numbers_and_names_every_source() -> None:
    from sdvar_exp.training.card import render

    card, page = json.loads((FOLDER / "card.json").read_text()), (FOLDER / "README.md").read_text()
    assert page == render(card) and "python scripts/train.py train=emoji" in page
    sources = ("Noto Emoji", "Fluent Emoji", "Twemoji", "EmojiOne 2", "OpenMoji")
    assert all(f"{name} " in page for name in sources) and "**Licence**: CC BY-SA 4.0" in page and "8,731 training" in page


def test_its_settings_are_those_that_train_it_again() -> None:
    from sdvar_exp.training.jobs import compose_training, parts_of

    card, settings = json.loads((FOLDER / "card.json").read_text()), compose_training(["train=emoji"])
    roles = {"vae": settings.vqvae, "target": settings.target, "draft_plain": settings.draft}
    for role, asked in (roles | {"draft": settings.distilled.student, "classifier": settings.classifier}).items():
        wanted = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(asked).items()}
        assert {name: card[role][name] for name in wanted if name != "steps"} == {
            name: value for name, value in wanted.items() if name != "steps"
        }
        assert card[role]["steps"] <= asked.steps, "time ran out first"
    assert (card["pair"], card["licence"], card["held_out"]) == ("emoji", settings.about.licence, settings.held_out)
    assert card["data"].startswith(settings.about.data) and card["distillation"]["samples"] == settings.distilled.samples
    assert parts_of(settings) == ("vqvae", "target", "draft", "distilled", "classifier", "export"), "grey images alone"
    assert parts_of(compose_training([])) == (*parts_of(settings), "evaluate")
    assert parts_of(compose_training(["part=late"])) == ("late",)
    with pytest.raises(UserError, match="emojis"):
        compose_training(["train=emojis"])


def test_exact_gives_the_targets_tokens_in_float64() -> None:
    pair, units = load_pair("emoji", dtype="float64"), [Unit(label, 0) for label in (0, 4, 8)]
    noise = make_noise(pair, units)
    base = decode(pair, Cell(choose("strategy", "sequential")), units, noise=noise)
    cell = Cell(
        choose("strategy", "parallel_v1"),
        mask=choose("mask", "block_causal"),
        acceptance=choose("acceptance", "exact"),
        gamma=choose("gamma", "fixed", value=3),
    )
    out = decode(pair, cell, units, noise=noise)
    assert all(torch.equal(a, b) for a, b in zip(out.tokens, base.tokens, strict=True))
    image = decode_images(pair, out.f_hat)
    assert image.shape == (3, 3, 48, 48) and 0 <= image.min() < image.max() <= 1
    assert (image.amax(1) - image.amin(1)).max() > 0.3, "in colour"
    twins = decode(Pair(pair.vae, pair.target, pair.target, "twins", {}), cell, units[:1], noise=make_noise(pair, units[:1]))
    assert all(stage.passed == (True,) for stage in twins.stages) and twins.counts.target_calls == 3


def test_its_images_are_seen_by_its_own_classifier(study: Path) -> None:
    found = read_features(study)
    assert len(found) == 2 and {cell.digest for cell in found.values()} == {EMOJI}
    for cell in found.values():
        assert np.array_equal(np.unique(cell.labels, return_counts=True), [range(9), [4] * 9])
        assert cell.predicted is not None and cell.predicted.max() <= 8
    target = next(iter(found.values()))
    assert (target.predicted == target.labels).mean() > 1 / 3, "chance is a ninth; p < 0.001 for 36 images"


def test_kept_images_are_looked_at_by_the_same(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = []
    for words in ([], ["--extractor", "classifier"], ["--extractor", str(FOLDER / "classifier.safetensors")]):
        capsys.readouterr()
        assert main(["quality", str(study), "--json", *words]) == 0
        tables.append(json.loads(capsys.readouterr().out))
    assert tables[0][0]["class_accuracy"] > 1 / 3
    assert [[row["class_accuracy"] for row in table] for table in tables] == [[r["class_accuracy"] for r in tables[0]]] * 3
    assert all("needs at least 100 samples, there are 36" in row["note"] for table in tables for row in table)


def two_pairs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study with a cell of each pair, whose images are test images, and one of an unknown network."""
    (folder / "cells").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    found = {}
    for order, (name, place) in enumerate((("embedded", WEIGHTS), ("emoji", FOLDER), ("files", FOLDER))):
        features, labels, digest = features_of_test_set(place)
        every = len(labels) // 150
        values, known = features[::every][:150], labels[::every][:150]
        found[name] = CellFeatures(known, known, values, known, values, digest if name != "files" else "another")
        body = {"id": name, "order": order, "name": name, "baseline": name, "config": {"model": {"name": name}}, "planned": []}
        (folder / "cells" / f"{name}.json").write_text(json.dumps(body))
    monkeypatch.setattr(quality, "read_features", lambda _: found)
    return folder


def test_a_study_of_both_pairs_compares_each_with_its_own_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = two_pairs(tmp_path / "both", monkeypatch)
    table = quality.quality_table(folder).set_index("name")
    assert table.loc["embedded", "precision_real"] > 0.8 and table.loc["emoji", "precision_real"] > 0.8
    assert pd.isna(table.loc["files", "precision_real"]) and "another classifier" in table.loc["files", "note"]
    own = quality.shipped_real(EMOJI)
    assert own is not None and own.features.shape == (1035, 64) and set(own.labels.tolist()) == set(range(9))
    other = replace(own, digest=EMBEDDED)  # the wrong set under the right name: what the numbers above are not
    wrong = quality.quality_table(folder, {"embedded": quality.read_features(folder)["embedded"]}, other)
    assert wrong["precision_real"].iloc[0] < 0.5


def test_no_one_classifier_looks_at_images_of_both_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdvar_exp.runner.measuring.extractors import network

    folder = two_pairs(tmp_path / "both", monkeypatch)
    with pytest.raises(UserError, match="pairs with classifiers of their own; leave it out"):
        network("classifier", folder)
    for name, digest in (
        ("emoji", EMBEDDED),
        ("embedded", EMOJI),
    ):  # of what is left: the file is of the emoji pair's name alone
        cell = (folder / "cells" / f"{name}.json").rename(tmp_path / f"{name}.json")
        (folder / "cells" / "files.json").unlink(missing_ok=True)
        assert network("classifier", folder).digest == digest
        cell.rename(folder / "cells" / f"{name}.json")


def test_a_features_file_says_whose_test_set_it_belongs_to(study: Path, tmp_path: Path) -> None:
    script = runpy.run_path(str(Path(__file__).resolve().parent.parent / "scripts" / "study.py"))
    script["keep"](study, tmp_path / "features.npz", 0, 4)
    with np.load(tmp_path / "features.npz") as file:
        data = {name: file[name] for name in file.files}
    assert str(data["classifier"]) == EMOJI and data["features"].shape == (2, 36, 64)
    assert data["names"].tolist() == ["sequential", "draft_only"]
    own = script["tables"](tmp_path / "features.npz")[0]["fd_real"]
    np.savez(tmp_path / "old.npz", **{name: value for name, value in data.items() if name != "classifier"})
    other = script["tables"](tmp_path / "old.npz")[0]["fd_real"]
    assert (other > 2 * own).all(), "a file of before is of the embedded pair"
    np.savez(tmp_path / "lost.npz", **{**data, "classifier": np.array("another")})
    with pytest.raises(SystemExit, match="another classifier"):
        script["tables"](tmp_path / "lost.npz")
    with pytest.raises(SystemExit, match="needs cells with 18 images each"):
        script["keep"](study, tmp_path / "none.npz", 3, 2)


def test_its_classes_have_names(tmp_path: Path) -> None:
    runs = pd.DataFrame({"config": [json.dumps({"model": {"name": name}}) for name in ("emoji", "embedded")]})
    assert classes_of(tmp_path, runs[:1]).of(8) == "flags" and classes_of(tmp_path, runs).names == ()
    emoji = runpy.run_path(str(Path(__file__).resolve().parent.parent / "scripts" / "emoji.py"))
    assert classes_of(tmp_path, runs[:1]).names == tuple(name.split("|")[0] for name in emoji["CLASSES"])


def test_check_finds_nothing_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "emoji", "--stages", "3"]) == 0
    assert capsys.readouterr().out.startswith("emoji: 3 stages (the first 3 of 9; --stages 9 for all), float64 on cpu")
