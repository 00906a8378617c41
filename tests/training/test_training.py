"""The training script on a handful of drawn pictures: parts, resumption, export, and the pair that comes out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdvar_exp.cell import Cell, ModelSpec, Unit
from sdvar_exp.decoding import decode
from sdvar_exp.errors import UserError
from sdvar_exp.models.checkpoint import build_var
from sdvar_exp.models.hidden import read_matrices
from sdvar_exp.models.pair import load_pair
from sdvar_exp.registry import choose
from sdvar_exp.training import classifier, distill, export, loop, var, vqvae
from sdvar_exp.training.card import About
from sdvar_exp.training.data import load_split, prepare

VQ = vqvae.VQVAESettings(patch_nums=(1, 2, 3), vocab_size=16, z_channels=8, steps=4, batch=8, warmup=2, max_minutes=5)
TARGET = var.VARSettings(depth=2, width=32, heads=2, steps=4, batch=8, warmup=2, short_stages=2, max_minutes=5)
DRAFT = replace(TARGET, name="draft", depth=1)
DISTILLED = distill.DistillSettings(student=replace(TARGET, name="distilled", depth=1), samples=20, chunk=10, held_out=10)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def test_all_parts_resume_and_export_a_pair_that_decodes(data: Path, tmp_path: Path) -> None:
    whole, halves, out = tmp_path / "whole", tmp_path / "halves", tmp_path / "weights"
    vqvae.train_vqvae(VQ, data, whole)
    vqvae.train_vqvae(VQ, data, halves)
    vae = export.load_vae(VQ, whole)
    var.train_var(TARGET, vae, data, whole)
    var.train_var(DRAFT, vae, data, whole)

    # two steps, a stop, then the rest: the same weights as without the stop
    torch_state = torch.get_rng_state()
    short = {"eval_every": 10, "save_every": 2}
    model = var.build(TARGET, vae)
    tokens, labels = var.encode_split(vae, data, "train", halves / "tokens.pt")

    def run(folder: Path, stop: int) -> None:
        torch.manual_seed(0)
        model = var.build(TARGET, vae)
        optimizer = torch.optim.AdamW(loop.grouped_parameters(model, 0.05), lr=1e-3)

        def step(i: int, generator: torch.Generator) -> dict[str, torch.Tensor | float]:
            if i == stop:
                raise KeyboardInterrupt
            pick = torch.randint(len(tokens), (8,), generator=generator)
            t = tokens[pick].long()
            logits = model.teacher_logits(labels[pick], vae.quantize.teacher_input(var.split_stages(vae, t)))
            return {"loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), t.flatten())}

        loop.train(
            folder=folder, name="t", model=model, optimizer=optimizer, steps=4, peak=1e-3, warmup=2, step_fn=step, **short
        )

    run(tmp_path / "a", stop=-1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", stop=2)
    run(tmp_path / "b", stop=-1)
    first, second = weights_of(tmp_path / "a" / "t.ckpt"), weights_of(tmp_path / "b" / "t.ckpt")
    assert all(torch.equal(first[k], second[k]) for k in first)
    torch.set_rng_state(torch_state)
    assert model.depth == 2

    distill.train_distilled(DISTILLED, export.load_transformer(TARGET, vae, whole), vae, whole)
    card = export.export(VQ, TARGET, DRAFT, DISTILLED, DISTILLED, whole, out, tmp_path / "docs", data, held_out=10)
    assert card["target"]["steps"] == card["draft"]["steps"] == 4 and 0 < card["vae"]["codes_used"] <= 1
    assert 0 < card["draft"]["overlap"] <= 1 and 0 <= card["draft_plain"]["match"] <= 1
    assert "| target, depth 2, width 32 |" in (out / "README.md").read_text()
    words = About("mine", "drawn bars", "CC0 1.0.")
    export.export(VQ, TARGET, DRAFT, DISTILLED, DISTILLED, whole, tmp_path / "mine", tmp_path / "docs", data, 10, words)
    page = (tmp_path / "mine" / "README.md").read_text()
    assert page.startswith("# Model card: the mine pair") and "| draft (plain, not in the package), depth 1" in page
    for text in ("drawn bars; 40 training and 40 test images", "- **Licence**: CC0 1.0.", "`model=mine`", "train=mine`"):
        assert text in page
    digest = card["target"]["sha256"]
    begun = {"init": digest, "steps_before": 4, "minutes_before": card["target"]["minutes"]}
    assert export.started_from(digest, list(card.values())) == begun
    assert export.started_from(digest, [{**begun, "sha256": "of later weights"}]) == begun  # exported a second time
    assert export.started_from("", list(card.values())) == {"init": ""}
    assert export.started_from("unknown", list(card.values())) == {"init": "unknown"}
    files = {r: str(out / f"{r}.safetensors") for r in ("vae", "draft", "target")}
    pair = load_pair(ModelSpec("mine", **files))
    stored = vae.state_dict()
    assert all(torch.equal(v, stored[k]) for k, v in pair.vae.state_dict().items() if "ema" not in k)
    result = decode(pair, Cell(choose("strategy", "sequential")), [Unit(3, 0)])
    assert [t.shape[1] for t in result.tokens] == [1, 4, 9]


@pytest.mark.needs("cuda")
def test_a_gpu_trains_what_the_cpu_does(data: Path, tmp_path: Path) -> None:
    """The same first steps to rounding, and checkpoints that a machine without a GPU reads."""
    small = classifier.ClassifierSettings(side=24, channels=3, steps=4, batch=8, warmup=2, bf16=False)
    losses = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        losses[device] = [vqvae.train_vqvae(VQ, data, out, device)["loss"]]
        vae = export.load_vae(VQ, tmp_path / "cpu").to(device)
        losses[device].append(var.train_var(TARGET, vae, data, out)["loss"])
        target = export.load_transformer(TARGET, vae, tmp_path / "cpu").to(device)
        for hidden in (False, True):
            found = distill.train_distilled(replace(DISTILLED, hidden=hidden), target, vae, out / str(hidden))
            losses[device].append(found["loss"])
        losses[device].append(classifier.train_classifier(small, data, out, device)["loss"])
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.02)
    assert all(t.device.type == "cpu" for t in export.load_transformer(TARGET, vae.cpu(), tmp_path / "cuda").parameters())


@pytest.mark.parametrize("hidden", [False, True])
def test_distillation_brings_the_student_to_the_teacher(hidden: bool, tmp_path: Path) -> None:
    """A student of the teacher's size, with its weights but for the head, ends closer to it than it began."""
    torch.manual_seed(0)
    vae = vqvae.build(VQ).eval().requires_grad_(False)
    target = var.build(TARGET, vae)
    with torch.no_grad():
        target.head.weight.mul_(200)
    s = replace(
        DISTILLED, hidden=hidden, samples=60, student=replace(TARGET, name="distilled", steps=60, peak=1e-2, max_minutes=5)
    )
    files = distill.draw_samples(s, target, vae, tmp_path / "samples-distilled")
    samples = distill.load_samples(files)
    assert samples["codes"].shape == (60, 14) and samples["logits"].shape == (2, 60, 14, 16)
    fresh = distill.agreement(var.build(s.student, vae), vae, samples, s.cfg)
    same = distill.agreement(target, vae, samples, s.cfg)
    assert same["overlap"] == pytest.approx(1, abs=2e-3)  # logits are kept in float16
    last = distill.train_distilled(s, target, vae, tmp_path)
    assert last["eval_overlap"] > fresh["overlap"] + 0.05
    if hidden:
        matrices = read_matrices(str(tmp_path / "distilled-hidden.safetensors"), "", TARGET.width, target.head.weight)
        assert [bool(m.any()) for m in matrices.state_dict().values()] == [True, True, False]  # three stages have two lags
        assert build_var(tmp_path / "distilled.safetensors").width == TARGET.width


def test_matrices_alone_leave_the_draft_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = vqvae.build(VQ).eval().requires_grad_(False)
    target, draft = var.build(TARGET, vae), var.build(DISTILLED.student, vae)
    save_file(draft.state_dict(), tmp_path / "begun.safetensors")
    student = replace(DISTILLED.student, init=str(tmp_path / "begun.safetensors"))
    distill.train_distilled(replace(DISTILLED, hidden=True, matrices_only=True, student=student), target, vae, tmp_path)
    kept = build_var(tmp_path / "distilled.safetensors").state_dict()
    assert all(torch.equal(kept[name], weight.half().float()) for name, weight in draft.state_dict().items() if name in kept)
    matrices = read_matrices(str(tmp_path / "distilled-hidden.safetensors"), "", TARGET.width, target.head.weight)
    assert any(m.any() for m in matrices.state_dict().values())
    with pytest.raises(UserError, match="matrices_only needs"):
        replace(DISTILLED, matrices_only=True)


def test_samples_are_the_guided_targets() -> None:
    """Frequencies of the first code against the exact distribution (χ², false alarm below 1e-6)."""
    from scipy.stats import chisquare

    torch.manual_seed(1)
    vae = vqvae.build(VQ).eval().requires_grad_(False)
    target = var.build(TARGET, vae)
    with torch.no_grad():
        target.head.weight.mul_(200)
    labels = torch.full((4000,), 3)
    codes, logits = distill.draw(target, vae, labels, cfg=0.0, seed=5)
    exact = logits[0, 0].double().softmax(-1)
    counts = torch.bincount(codes[:, 0], minlength=16)
    assert chisquare(counts.numpy(), (exact * 4000).numpy()).pvalue > 1e-6
    # guidance moves the last stage, never the first (t_0 = 0)
    strong, both = distill.draw(target, vae, labels, cfg=5.0, seed=5)
    assert torch.equal(strong[:, 0], codes[:, 0]) and not torch.equal(strong[:, -1], codes[:, -1])
    weights = distill.linear_weights(vae, 5.0)
    assert weights.flatten().tolist() == [0.0] + [2.5] * 4 + [5.0] * 9
    assert torch.equal(distill.guided(both, weights)[:, 0], both[:4000, 0])


def test_two_trainings_that_start_together_read_whole_codes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one encodes and reads while the first has written half of its file."""
    torch.manual_seed(0)
    vae, cache = vqvae.build(VQ).eval(), tmp_path / "tokens.pt"
    places, save = [], torch.save

    def half_written(payload: torch.Tensor, path: Path) -> None:
        places.append(path)
        if len(places) == 1:
            path.write_bytes(b"half")
            monkeypatch.setattr(os, "getpid", lambda: 0)
            var.encode_split(vae, data, "t10k", cache)
            assert len(torch.load(cache, weights_only=True)) == len(load_split(data, "t10k")[1])
        save(payload, path)

    monkeypatch.setattr(torch, "save", half_written)
    tokens, _ = var.encode_split(vae, data, "t10k", cache)
    assert torch.equal(torch.load(cache, weights_only=True), tokens) and len(set(places)) == 2
    assert sorted(tmp_path.iterdir()) == [tmp_path / "data", cache], "no parts are left"


def test_a_missing_data_set_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="install Debian's dataset-fashion-mnist or set data_folder"):
        load_split(tmp_path, "train")


def test_dead_codes_are_revived() -> None:
    q = vqvae.build(VQ).quantize
    usage = vqvae.CodeUsage(16)
    for _ in range(200):
        usage.update(q, [torch.zeros(4, 8, dtype=torch.int64)])
    pool = torch.full((5, 8), 7.0)
    assert usage.revive(q, pool, torch.Generator().manual_seed(0)) == 15
    assert torch.equal(q.embedding.weight[1:], torch.full((15, 8), 7.0))
    assert usage.revive(q, pool, torch.Generator().manual_seed(0)) == 0


def test_a_folder_of_pictures_is_read_in_colour_class_by_class(tmp_path: Path) -> None:
    """Labels follow the names of the class folders; `prepare` keeps the three channels apart."""
    for label, colour in (("0_red", (255, 0, 0)), ("1_blue", (0, 0, 255))):
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.new("RGB", (6, 6), colour).save(tmp_path / "train" / label / "a.png")
    images, labels = load_split(tmp_path, "train")
    assert labels.tolist() == [0, 1] and images.shape == (2, 6, 6, 3)
    x = prepare(images, 12)
    assert x.shape == (2, 3, 12, 12) and x.mean((2, 3)).tolist() == [[1, -1, -1], [-1, -1, 1]]
    Image.new("RGB", (5, 6)).save(tmp_path / "train" / "1_blue" / "b.png")
    with pytest.raises(UserError, match=r"b\.png is 5×6; all pictures of .* must have one size"):
        load_split(tmp_path, "train")


def test_a_loss_on_late_stages_needs_passes_that_reach_them() -> None:
    """Passes cut before `first_stage` would have no row to learn from."""
    with pytest.raises(UserError, match="first_stage must lie before"):
        distill.DistillSettings(first_stage=8)
    assert distill.DistillSettings(first_stage=5).first_stage == 5
