"""Training of the classifier, and the features of the test set that are shipped with it."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from sdvar_exp.errors import require
from sdvar_exp.models.checkpoint import sha256
from sdvar_exp.models.classifier import Classifier, load_classifier
from sdvar_exp.training import loop
from sdvar_exp.training.data import load_split, prepare

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifierSettings:
    """Training of the classifier; images are shifted by up to two pixels and mirrored. channels: 3 for colour."""

    name: str = "classifier"
    side: int = 40
    channels: int = 1
    steps: int = 6000
    batch: int = 128
    peak: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.02
    max_minutes: float = 30.0
    bf16: bool = True

    def __post_init__(self) -> None:
        require(self.side > 0 and self.side % 8 == 0, f"classifier.side must be a multiple of 8, got {self.side}")
        require(self.channels in (1, 3), f"classifier.channels must be 1 or 3, got {self.channels}")


def images_of(images_Nhw: torch.Tensor, side: int) -> torch.Tensor:
    """(N, 3, side, side) in [0, 1], as the VQVAE decodes them."""
    return (prepare(images_Nhw, side) + 1) / 2


@torch.no_grad()
def outputs(model: Classifier, images_Nhw: torch.Tensor, side: int, batch: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, 64) and predicted classes (N,)."""
    device = next(model.parameters()).device
    parts = [model.features(images_of(part, side).to(device)) for part in images_Nhw.split(batch)]
    return torch.cat(parts).cpu(), torch.cat([model.out(p).argmax(-1) for p in parts]).cpu()


def train_classifier(
    s: ClassifierSettings, data_folder: Path, out: Path, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Train (or continue); leaves `classifier.ckpt` and `classifier.log.jsonl` in `out`."""
    torch.manual_seed(0)
    images, labels = load_split(data_folder, "train")
    test_images, test_labels = load_split(data_folder, "t10k")
    model = Classifier(int(labels.max()) + 1, side=s.side, channels=s.channels).to(device)
    optimizer = torch.optim.AdamW(loop.grouped_parameters(model, s.weight_decay), lr=s.peak, betas=(0.9, 0.99))

    def step(i: int, generator: torch.Generator) -> dict[str, torch.Tensor | float]:
        pick = torch.randint(len(images), (s.batch,), generator=generator)
        x = images_of(images[pick], s.side).to(device)
        dx, dy = torch.randint(-2, 3, (2,), generator=generator).tolist()
        x = torch.roll(x, (dy, dx), (2, 3))
        if torch.rand((), generator=generator).item() < 0.5:
            x = x.flip(3)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=s.bf16):
            logits = model(x)
        return {"loss": F.cross_entropy(logits.float(), labels[pick].to(device), label_smoothing=0.05)}

    def evaluate() -> dict[str, float]:
        return {"accuracy": (outputs(model, test_images[:2000], s.side)[1] == test_labels[:2000]).double().mean().item()}

    return loop.train(
        folder=out,
        name=s.name,
        model=model,
        optimizer=optimizer,
        steps=s.steps,
        peak=s.peak,
        warmup=s.warmup,
        step_fn=step,
        max_minutes=s.max_minutes,
        eval_every=500,
        evaluate=evaluate,
    )


def export_classifier(s: ClassifierSettings, folder: Path, out: Path, data_folder: Path) -> dict[str, Any]:
    """Write `classifier.safetensors`, `test_features.safetensors` (features, labels) and `classifier.json` to `out`."""
    saved = torch.load(folder / f"{s.name}.ckpt", map_location="cpu", weights_only=True)
    out.mkdir(parents=True, exist_ok=True)
    path, features_path = out / "classifier.safetensors", out / "test_features.safetensors"
    save_file({k: v.half().contiguous() for k, v in saved["model"].items()}, path)
    model = load_classifier(path)
    images, labels = load_split(data_folder, "t10k")
    features, predicted = outputs(model, images, s.side)
    save_file({"features": features.half(), "labels": labels.to(torch.uint8)}, features_path)
    about = {
        **asdict(s),
        "steps": saved["step"],
        "minutes": round(saved["seconds"] / 60, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "test_images": len(labels),
        "accuracy": (predicted == labels).double().mean().item(),
        "sha256": sha256(path),
        "features_sha256": sha256(features_path),
        "command": "python scripts/train.py part=classifier",
    }
    for file in (path, features_path):
        file.chmod(0o644)
    (out / "classifier.json").write_text(json.dumps(about, indent=1) + "\n")
    log.info("classifier: %.2f %% of %d test images", 100 * about["accuracy"], len(labels))
    return about
