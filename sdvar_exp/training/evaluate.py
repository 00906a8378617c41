"""Quality of the shipped pair, measured and written into its card: `python scripts/train.py part=evaluate`.

Class accuracy and distances to the test set over a grid of guidance and truncation, diversity within a class, and the
nearest training image of each sample. Everything is measured in the shipped classifier's features, on the weights as
shipped; two rows of real images say what the numbers of a perfect model would look like.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdvar_exp.cell import ModelSpec
from sdvar_exp.errors import UserError, require
from sdvar_exp.metrics import mean_interval
from sdvar_exp.metrics.distribution import Estimate, compare, coverage, nearest, test_features
from sdvar_exp.models.classifier import Classifier, load_classifier
from sdvar_exp.models.pair import Pair, load_pair
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.training import pictures
from sdvar_exp.training.card import write_card
from sdvar_exp.training.classifier import images_of
from sdvar_exp.training.data import load_split, prepare
from sdvar_exp.training.samples import EvaluateSettings, Setting, draw_grid, grid, labels_of

log = logging.getLogger(__name__)

GOAL = 0.9  # share of the target's samples that are to be classified as their label
Sets = dict[str, np.ndarray]


def evaluate(s: EvaluateSettings, folder: Path, weights: Path, docs: Path, data_folder: Path) -> dict[str, Any]:
    """Measure, and write `quality` in card.json, both pages of the card, and docs/figures; gives the card."""
    card_path = weights / "card.json"
    if not card_path.is_file():
        raise UserError(f"{card_path} does not exist: run part=export first")
    card: dict[str, Any] = json.loads(card_path.read_text(encoding="utf-8"))
    pair, seconds = loaded(weights)
    classifier = load_classifier(weights / "classifier.safetensors")
    require(classifier.channels == 1, "part=evaluate measures grey images: train the classifier with classifier.channels=1")
    samples = draw_grid(pair, s, folder / "evaluate")
    labels = labels_of(s, pair.num_classes)
    test_images, test_labels = load_split(data_folder, "t10k")
    held = held_out(test_labels.numpy(), s.per_class)
    known = known_images(pair.vae, test_images[held], classifier.side)
    quality = measured(classifier, weights, samples, labels, {"held": held, **known}, grid(s))
    best = quality["best"]["target"]
    train_images, _ = load_split(data_folder, "train")
    features = train_features(classifier, train_images, folder / "evaluate", quality["classifier"])
    quality["nearest"], index = nearest_training({"samples": samples[best], **known}, train_images, features, classifier)
    quality |= {
        "grid": asdict(s),
        "loading_seconds": round(seconds, 3),
        "shipped_bytes": sum(f.stat().st_size for f in weights.glob("*.safetensors")),
    }
    card |= {"classifier": json.loads((weights / "classifier.json").read_text(encoding="utf-8")), "quality": quality}
    figures = docs / "figures"
    pictures.draw_samples({"target": samples[best], "draft": samples[best.replace("target", "draft")]}, labels, figures)
    pictures.draw_nearest(samples[best], labels, train_images, index, figures)
    pictures.draw_losses(card, folder, figures)
    write_card(card, weights, docs)
    return card


def loaded(weights: Path, repeats: int = 5) -> tuple[Pair, float]:
    """The pair of a folder, and the median seconds that loading it takes."""
    files = {role: str(weights.resolve() / f"{role}.safetensors") for role in ("vae", "draft", "target")}
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        pair = load_pair(ModelSpec("evaluated", **files))
        times.append(time.perf_counter() - began)
    return pair, float(np.median(times))


def held_out(labels_N: np.ndarray, per_class: int) -> np.ndarray:
    """Indices of the first `per_class` images of each class, in the order of `labels_of`."""
    return np.stack([np.flatnonzero(labels_N == y)[:per_class] for y in np.unique(labels_N)], 1).ravel()


@torch.inference_mode()
def known_images(vae: VQVAE, images_nhw: torch.Tensor, side: int) -> Sets:
    """Real images and their reconstructions by the VQVAE, (n, side, side) uint8 each."""
    both: dict[str, list[torch.Tensor]] = {"test images": [], "reconstructions": []}
    for part in images_nhw.split(250):
        x = prepare(part, side)
        both["test images"].append(x)
        both["reconstructions"].append(vae.decode(vae.quantize.encode(vae.features(x))[1][-1]))
    return {
        name: ((torch.cat(x).mean(1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy() for name, x in both.items()
    }


@torch.inference_mode()
def seen(classifier: Classifier, images_nhw: np.ndarray, batch: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) and predicted classes (n,) of grey uint8 images."""
    x = torch.from_numpy(images_nhw)[:, None].expand(-1, 3, -1, -1)
    features = torch.cat([classifier.features(part / 255) for part in x.split(batch)])
    return features.numpy(), classifier.out(features).argmax(-1).numpy()


def measured(
    classifier: Classifier, weights: Path, samples: Sets, labels: np.ndarray, known: Sets, settings: Sequence[Setting]
) -> dict[str, Any]:
    """One row per setting and two of real images, the best settings, and recall within classes.

    known: `held`, the indices of test images that are measured like samples, against the rest of the test set; and sets
    of images in the order of `labels`. Best is the least Fréchet distance to the test set (KID where there are too few
    samples for it) among the settings that reach `GOAL`, or among all where none does.
    """
    real, real_labels, digest = test_features(weights)
    rest = np.setdiff1d(np.arange(len(real)), known["held"])
    rows, features = [], {}
    for name in ("test images", "reconstructions"):
        features[name], predicted = seen(classifier, known[name])
        row = row_of(features[name], predicted, labels, real[rest], real_labels[rest])
        rows.append({"name": name, "n": len(labels), **row})
    for setting in settings:
        features[setting.key], predicted = seen(classifier, samples[setting.key])
        row = row_of(features[setting.key], predicted, labels, real, real_labels)
        rows.append({"name": setting.key, "n": len(labels), **asdict(setting), **row})
        log.info("%s: class accuracy %.3f, Fréchet distance %s", setting.key, row["class_accuracy"], row["fd"])
    best = {model: best_of([r for r in rows if r.get("model") == model]) for model in ("target", "draft")}
    recall = {
        name: within_classes(features[name], labels, real[rest], real_labels[rest])
        for name in ("test images", best["target"], best["draft"])
    }
    return {"classifier": digest, "n": len(labels), "rows": rows, "best": best, "recall_within_class": recall}


def row_of(
    features: np.ndarray, predicted: np.ndarray, labels: np.ndarray, real: np.ndarray, real_labels: np.ndarray
) -> dict[str, Any]:
    """Class accuracy and distances with 95 % intervals as plain numbers, refused ones as None."""
    accuracy = mean_interval((predicted == labels).astype(float).tolist(), labels.tolist())
    low, high = (None if x is None else min(max(x, 0.0), 1.0) for x in (accuracy.low, accuracy.high))
    found = {"class_accuracy": Estimate(len(labels), accuracy.mean, low, high), **compare(features, labels, real, real_labels)}
    return {
        key: value
        for name, e in found.items()
        for key, value in ((name, e.value), (f"{name}_low", e.low), (f"{name}_high", e.high))
    }


def best_of(rows: list[dict[str, Any]]) -> str:
    """Name of the row with the least distance to the test set among those that reach the goal."""
    reached = [r for r in rows if r["class_accuracy"] >= GOAL] or rows
    measure = next((m for m in ("fd", "kid") if reached[0][m] is not None), None)
    return str(min(reached, key=lambda r: r[measure] if measure else -r["class_accuracy"])["name"])


def within_classes(features: np.ndarray, labels: np.ndarray, real: np.ndarray, real_labels: np.ndarray) -> list[float | None]:
    """Recall of each class by itself: share of its real images within the manifold of its samples (null below 10 samples)."""
    return [
        round(coverage(real[real_labels == y], features[labels == y]), 3) if (labels == y).sum() >= 10 else None
        for y in np.unique(labels)
    ]


def train_features(classifier: Classifier, images: torch.Tensor, folder: Path, digest: str) -> np.ndarray:
    """Features (n, d) of the training images, computed once."""
    path = folder / f"train_features-{digest[:8]}-{len(images)}.npy"
    if not path.is_file():
        log.info("features of %d training images", len(images))
        with torch.inference_mode():
            parts = [classifier.features(images_of(part, classifier.side)) for part in images.split(500)]
        np.save(path, torch.cat(parts).numpy())
    return np.asarray(np.load(path))


def nearest_training(
    sets: Sets, train_images: torch.Tensor, features: np.ndarray, classifier: Classifier
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Distance of each set of images to the training images, in grey values (RMSE on [0, 1]) and in features.

    Medians of each set, and the shares of the samples that are nearer than the nearest percent of the reconstructed test
    images: about 0.01 where nothing was memorised, for the test images were not trained on and the reconstruction gives
    both the VQVAE's look. Also the index of each sample's nearest training image, by `pixels` and `features`.
    """
    side = classifier.side
    distances: dict[str, dict[str, np.ndarray]] = {"pixels": {}, "features": {}}
    index: dict[str, np.ndarray] = {}
    flat = np.concatenate([x.reshape(len(x), -1) for x in sets.values()]).astype(np.float32) / 255
    chunks = (images_of(part, side)[:, 0].reshape(len(part), -1).numpy() for part in train_images.split(5000))
    seen_features = np.concatenate([seen(classifier, x)[0] for x in sets.values()])
    found = {"pixels": nearest(flat, chunks), "features": nearest(seen_features, [features])}
    ends = np.cumsum([len(x) for x in sets.values()])
    for space, (where, distance) in found.items():
        scale = side if space == "pixels" else 1
        parts = np.split(distance / scale, ends[:-1])
        distances[space] = dict(zip(sets, parts, strict=True))
        index[space] = where[: ends[0]]
    out = {}
    for space, by_set in distances.items():
        edge = np.quantile(by_set["reconstructions"], 0.01)
        out[space] = {
            "median": {name: float(np.median(d)) for name, d in by_set.items()},
            "nearest": {name: float(d.min()) for name, d in by_set.items()},
            "samples_nearer_than_1_percent": float((by_set["samples"] < edge).mean()),
        }
    return out, index
