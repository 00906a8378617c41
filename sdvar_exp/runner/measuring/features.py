"""Classifies images: features and predicted class, computed after the clock and kept in the ledger."""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import torch

from sdvar_exp.cell import ModelSpec
from sdvar_exp.models.classifier import Classifier, load_classifier
from sdvar_exp.models.files import SHIPPED, shipped_folder
from sdvar_exp.models.pair import Pair

KEPT = 256
"""Images that are remembered."""


@dataclass(frozen=True)
class Seen:
    """Features as stored (float16, base64) and the predicted class."""

    features: str
    predicted: int

    @property
    def values(self) -> np.ndarray:
        """The features (64,) as float32."""
        return np.frombuffer(base64.b64decode(self.features), "<f2").astype(np.float32)


@dataclass
class Extractor:
    """The classifier of a shipped pair on the CPU, one image at a time, so that the numbers depend on nothing but the image."""

    model: Classifier
    digest: str
    kept: OrderedDict[bytes, Seen] = field(default_factory=OrderedDict)

    @torch.inference_mode()
    def see(self, image_3hw: np.ndarray) -> Seen:
        """Features and class of one image in [0, 1]; remembered by its pixels, as cells share baselines and may agree."""
        image = np.ascontiguousarray(image_3hw, dtype=np.float32)
        key = image.tobytes()
        if key not in self.kept:
            features = self.model.features(torch.tensor(image)[None])
            stored = features[0].numpy().astype("<f2")
            self.kept[key] = Seen(base64.b64encode(stored.tobytes()).decode("ascii"), int(self.model.out(features).argmax()))
            if len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        return self.kept[key]


def extractor_for(spec: ModelSpec, pair: Pair) -> Extractor | None:
    """The classifier that belongs to a model, None where there is none (see `sdvar-exp quality` for ImageNet models)."""
    if spec.name not in SHIPPED or spec.vae or spec.target:
        return None
    folder = shipped_folder(spec.name)
    path = folder / "classifier.safetensors"
    model = load_classifier(path) if path.is_file() else None
    if model is None or model.side != pair.pyramid.side * pair.vae.downsample:
        return None
    return Extractor(model, str(json.loads((folder / "classifier.json").read_text(encoding="utf-8"))["sha256"]))
