"""The whole training by its documented commands, with tiny settings: every part, from images to the card of the pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdvar_exp.errors import UserError
from sdvar_exp.models.checkpoint import sha256
from sdvar_exp.training.jobs import PARTS, compose_training, run

TINY = [
    "vqvae.patch_nums=[1,2,10]",
    "vqvae.vocab_size=16",
    "vqvae.z_channels=8",
    "vqvae.ch=32",
    "vqvae.steps=2",
    "vqvae.batch=4",
    "target.depth=2",
    "target.width=32",
    "target.heads=2",
    "target.steps=2",
    "target.batch=4",
    "target.short_stages=2",
    "draft.depth=1",
    "draft.width=32",
    "draft.heads=2",
    "draft.steps=2",
    "draft.batch=4",
    "draft.short_stages=2",
    "distilled.student.depth=1",
    "distilled.student.width=32",
    "distilled.student.heads=2",
    "distilled.student.steps=2",
    "distilled.student.batch=4",
    "distilled.student.short_stages=2",
    "distilled.samples=20",
    "distilled.chunk=10",
    "distilled.held_out=10",
    "late.student.depth=1",
    "late.student.width=32",
    "late.student.heads=2",
    "late.student.steps=2",
    "late.student.batch=4",
    "late.student.init=",
    "late.samples=20",
    "late.chunk=10",
    "late.held_out=10",
    "late.first_stage=2",
    "classifier.steps=2",
    "classifier.batch=8",
    "held_out=10",
    "evaluate.per_class=2",
    "evaluate.cfgs=[1.5]",
    "evaluate.top_ks=[0]",
    "evaluate.top_ps=[0.9]",
]


@pytest.fixture
def words(data: Path, tmp_path: Path) -> list[str]:
    """Overrides of a training that writes below tmp_path."""
    places = {"out": "out", "weights": "weights", "docs": "docs"}
    return [*TINY, f"data_folder={data}", *(f"{key}={tmp_path / name}" for key, name in places.items())]


@pytest.mark.long
def test_every_part_runs_by_its_command(words: list[str], tmp_path: Path) -> None:
    for part in PARTS:
        run(compose_training([*words, f"part={part}"]))
    weights, docs, out = tmp_path / "weights", tmp_path / "docs", tmp_path / "out"
    card = json.loads((weights / "card.json").read_text())
    for role in ("vae", "target", "draft", "draft_plain", "draft_late", "classifier"):
        assert card[role]["steps"] == 2 and card[role]["sha256"] == sha256(weights / f"{role}.safetensors")
    quality = card["quality"]
    assert [row["name"] for row in quality["rows"]] == [
        "test images",
        "reconstructions",
        "target-cfg1.5-k0-p0.9",
        "draft-cfg1.5-k0-p0.9",
    ]
    assert all(0 <= row["class_accuracy"] <= 1 and row["fd"] is None and row["n"] == 18 for row in quality["rows"])
    assert quality["nearest"]["pixels"]["nearest"]["samples"] > 0
    page = (docs / "model_card.md").read_text()
    assert "| classifier | 298,569 | 2 |" in page and "![samples by class](figures/samples.png)" in page
    assert {f.name for f in (docs / "figures").iterdir()} == {"samples.png", "nearest.png", "losses.png"}
    assert "figures/" not in (weights / "README.md").read_text()
    # once more: everything resumes, nothing is trained again, and the same numbers come out
    before = {f.name: sha256(f) for f in (*weights.glob("*.safetensors"), *(out / "evaluate").rglob("*.np*"))}
    run(compose_training([*words, "part=all"]))
    assert before == {f.name: sha256(f) for f in (*weights.glob("*.safetensors"), *(out / "evaluate").rglob("*.np*"))}
    again = json.loads((weights / "card.json").read_text())["quality"]
    assert {k: v for k, v in again.items() if k != "loading_seconds"} == {
        k: v for k, v in quality.items() if k != "loading_seconds"
    }


@pytest.mark.long
def test_a_given_vqvae_is_used_as_it_is(words: list[str], tmp_path: Path) -> None:
    for part in ("vqvae", "target", "draft", "distilled", "export"):
        run(compose_training([*words, f"part={part}"]))
    first = json.loads((tmp_path / "weights" / "card.json").read_text())["vae"]
    given = tmp_path / "given.safetensors"
    given.write_bytes((tmp_path / "weights" / "vae.safetensors").read_bytes())
    (tmp_path / "out" / "vqvae.ckpt").unlink()
    run(compose_training([*words, f"vqvae.init={given}", "part=export"]))
    second = json.loads((tmp_path / "weights" / "card.json").read_text())["vae"]
    assert second.pop("init") == first["sha256"] and first.pop("init") == "" and first == second


def test_wrong_settings_are_one_line(words: list[str], tmp_path: Path) -> None:
    for word, message in (
        ("part=evaluat", "part must be one of vqvae, .*evaluate, all"),
        ("evaluate.top_ps=[0.9,0.8]", "lists of one length"),
    ):
        with pytest.raises(UserError, match=message):
            compose_training([*words, word])
    with pytest.raises(UserError, match=r"card.json does not exist: run part=export first"):
        run(compose_training([*words, "part=evaluate"]))
