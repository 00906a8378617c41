"""Networks whose features kept images are compared in: the shipped classifier, Inception, or anyone's own.

An extractor takes images (B, 3, H, W) uint8 and gives features (B, d) and predicted classes (B,), or None for these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdvar_exp.errors import UserError
from sdvar_exp.models.classifier import load_classifier
from sdvar_exp.models.pair import WEIGHTS
from sdvar_exp.store.export import sample_files
from sdvar_exp.store.features import CellFeatures, Kept, read_kept, write_kept
from sdvar_exp.store.manifest import read_cells

Network = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
NAMES = ("classifier", "inception")
PICTURES = (".png", ".jpg", ".jpeg")


def network(name: str) -> tuple[Network, str]:
    """An extractor by its name, and what its features are kept under.

    name: `classifier`, `inception`, or `package.module:function`, a function without arguments that gives an extractor.
    """
    if name == "classifier":
        digest = str(json.loads((WEIGHTS / "classifier.json").read_text())["sha256"])
        return _classifier(), digest
    if name == "inception":
        return _inception(), "inception-v3-compat-2048"
    module, colon, function = name.partition(":")
    if not colon:
        raise UserError(f"--extractor must be {', '.join(NAMES)} or package.module:function, got {name!r}")
    try:
        return getattr(import_module(module), function)(), re.sub(r"[^\w.-]", "-", name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--extractor {name}: {error}") from None


def _classifier() -> Network:
    model = load_classifier(WEIGHTS / "classifier.safetensors")

    def run(images_B3hw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if images_B3hw.shape[-2:] != (model.side, model.side):
            raise UserError(
                f"the shipped classifier takes images of {model.side}×{model.side} pixels, these are "
                f"{images_B3hw.shape[-2]}×{images_B3hw.shape[-1]}: use --extractor inception"
            )
        features = model.features(images_B3hw.float() / 255)
        return features, model.out(features).argmax(-1)

    return run


def _inception() -> Network:
    """torch-fidelity's Inception v3 with the weights that FID is defined by, its 2048 pooled features; images of any size."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise UserError(
            "--extractor inception needs torch-fidelity: pip install 'sdvar_exp[inception]' (it downloads the "
            "network's weights at its first use)"
        ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device).eval()

    def run(images_B3hw: torch.Tensor) -> tuple[torch.Tensor, None]:
        return model(images_B3hw.to(device))[0], None

    return run


@torch.inference_mode()
def features_of(run: Network, batches: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Features (n, d) float32 and classes (n,) of batches of images (b, H, W, 3) uint8; one batch is held at a time."""
    features, classes = [], []
    for batch in batches:
        seen, predicted = run(torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))))
        features.append(seen.float().cpu().numpy())
        if predicted is not None:
            classes.append(predicted.cpu().numpy())
    return np.concatenate(features), np.concatenate(classes) if classes else None


def read_images(paths: Sequence[Path], batch: int = 50) -> Iterator[np.ndarray]:
    """RGB images (b, H, W, 3) uint8 of equal size, `batch` at a time."""
    for start in range(0, len(paths), batch):
        found = [np.asarray(Image.open(path).convert("RGB")) for path in paths[start : start + batch]]
        if len({image.shape for image in found}) > 1:
            raise UserError(f"{paths[start].parent}: images differ in size; they must all be of one")
        yield np.stack(found)


def features_of_study(folder: Path, run: Network, key: str) -> dict[str, CellFeatures]:
    """Features of every cell with kept images, beside those of its baseline's images of the same units.

    Kept in `cache/features` of the study: images that were seen are not looked at again. A cell whose baseline keeps no
    image of a unit is left without that unit.
    """
    cells = read_cells(folder)
    seen: dict[str, Kept] = {}
    for cell in cells:
        files = sample_files(folder / "images" / cell)
        if files:
            seen[cell] = _kept(folder, run, key, cell, files)
    out = {}
    for cell, own in seen.items():
        base = seen.get(str(cells[cell]["baseline"]))
        if base is not None:
            out[cell] = own.beside(base, key)
    return {cell: found for cell, found in out.items() if len(found.labels)}


def _kept(folder: Path, run: Network, key: str, cell: str, files: list[tuple[int, int, Path]]) -> Kept:
    known = read_kept(folder, key, cell)
    units = [(label, seed) for label, seed, _ in files]
    if known is not None and known.units == units:
        return known
    features, classes = features_of(run, read_images([path for _, _, path in files]))
    kept = Kept(units, features, classes)
    write_kept(folder, key, cell, kept)
    return kept


def real_features(place: Path, run: Network) -> np.ndarray:
    """Features (n, d) of real images: a folder of PNG or JPEG files, searched through, or an npz with `arr_0` (n, H, W, 3)."""
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.suffix.lower() in PICTURES)
        if not files:
            raise UserError(f"--real {place}: no PNG or JPEG file in it")
        return features_of(run, read_images(files))[0]
    try:
        with np.load(place, allow_pickle=False) as file:
            images: Any = file["arr_0"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--real {place}: give a folder of images or an npz with arr_0 (n, H, W, 3) uint8 ({error})") from None
    return features_of(run, (images[i : i + 50] for i in range(0, len(images), 50)))[0]
