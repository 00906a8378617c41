"""The parts of a pair's training: `vqvae`, `target`, `draft`, `distilled`, `late`, `classifier`, `export`,
`evaluate`, or `all` in that order but for `late`, and for `evaluate` where images have colour."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from sdvar_exp.config.composing import compose_file
from sdvar_exp.errors import UserError
from sdvar_exp.models.pair import WEIGHTS, resolve_device
from sdvar_exp.training import classifier, distill, evaluate, export, var, vqvae
from sdvar_exp.training.card import About
from sdvar_exp.training.data import DEFAULT_FOLDER
from sdvar_exp.training.samples import EvaluateSettings

log = logging.getLogger(__name__)

PARTS = ("vqvae", "target", "draft", "distilled", "late", "classifier", "export", "evaluate")


def _draft() -> var.VARSettings:
    return var.VARSettings(name="draft", depth=2, width=96, heads=3, peak=3e-3, max_minutes=15.0)


def _late() -> distill.DistillSettings:
    """The shipped draft, trained on for the stages from 5 on."""
    student = replace(distill.DistillSettings().student, name="late", steps=4000, peak=1e-3, short_share=0.0, bf16=False)
    student = replace(student, init=str(WEIGHTS / "draft.safetensors"))
    return distill.DistillSettings(student=student, samples=4000, first_stage=5)


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training.

    part: which part, or `all`. out: folder of checkpoints and logs. weights: where `export`, `classifier` and `evaluate` write.
    docs: where the page of the model card and its figures go. threads: 0 is all. held_out: test images on which `export`
    measures. device: auto (CUDA where there is one), cpu, cuda or cuda:N, of the trainings. about: words for the card.
    """

    part: str = "all"
    out: str = "results/training"
    weights: str = str(WEIGHTS)
    docs: str = "docs"
    data_folder: str = str(DEFAULT_FOLDER)
    device: str = "auto"
    threads: int = 0
    held_out: int = 2000
    about: About = field(default_factory=About)
    vqvae: vqvae.VQVAESettings = field(default_factory=vqvae.VQVAESettings)
    target: var.VARSettings = field(default_factory=var.VARSettings)
    draft: var.VARSettings = field(default_factory=_draft)
    distilled: distill.DistillSettings = field(default_factory=distill.DistillSettings)
    late: distill.DistillSettings = field(default_factory=_late)
    classifier: classifier.ClassifierSettings = field(default_factory=classifier.ClassifierSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)

    def __post_init__(self) -> None:
        if self.part not in (*PARTS, "all"):
            raise UserError(f"part must be one of {', '.join(PARTS)}, all; got {self.part!r}")


def compose_training(overrides: Sequence[str]) -> TrainSettings:
    """Settings from conf/train.yaml and overrides as on the command line; raises `UserError` in one line."""
    return compose_file("train", TrainSettings, overrides)


def parts_of(settings: TrainSettings) -> tuple[str, ...]:
    """The parts that are asked for; `all` leaves out what starts from the shipped draft or measures grey images alone."""
    if settings.part != "all":
        return (settings.part,)
    left = {"late"} | ({"evaluate"} if settings.classifier.channels == 3 else set())
    return tuple(part for part in PARTS if part not in left)


def run(settings: TrainSettings) -> None:
    """Train or continue the wanted parts; each resumes from its last checkpoint."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    out, data, device = Path(settings.out), Path(settings.data_folder), resolve_device(settings.device)
    for part in parts_of(settings):
        log.info("part %s, checkpoints and logs in %s", part, out)
        if part == "vqvae" and settings.vqvae.init:
            log.info("the VQVAE is given: %s", settings.vqvae.init)
        elif part == "vqvae":
            vqvae.train_vqvae(settings.vqvae, data, out, device)
        elif part == "classifier":
            classifier.train_classifier(settings.classifier, data, out, device)
            classifier.export_classifier(settings.classifier, out, Path(settings.weights), data)
        elif part == "evaluate":
            evaluate.evaluate(settings.evaluate, out, Path(settings.weights), Path(settings.docs), data)
        elif part in ("distilled", "late"):
            vae = export.load_vae(settings.vqvae, out)
            target = export.load_transformer(settings.target, vae, out)
            distill.train_distilled(getattr(settings, part), target.to(device), vae.to(device), out)
        elif part == "export":
            card = export.export(
                settings.vqvae,
                settings.target,
                settings.draft,
                settings.distilled,
                settings.late,
                out,
                Path(settings.weights),
                Path(settings.docs),
                data,
                settings.held_out,
                settings.about,
            )
            roles = [role for role in ("vae", "target", "draft", "draft_plain", "draft_late") if role in card]
            log.info("exported to %s: %s", settings.weights, {role: card[role]["bytes"] for role in roles})
        else:
            chosen = settings.target if part == "target" else settings.draft
            var.train_var(chosen, export.load_vae(settings.vqvae, out).to(device), data, out)
