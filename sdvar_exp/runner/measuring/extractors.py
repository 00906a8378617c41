"""Networks whose features kept images are compared in: the shipped classifier, Inception, or anyone's own.

An extractor takes images (B, 3, H, W) uint8 and gives features (B, d) and predicted classes (B,), or None for these.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import struct
import sys
import sysconfig
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand
from sdvar_exp.models.checkpoint import sha256
from sdvar_exp.models.classifier import load_classifier
from sdvar_exp.models.files import SHIPPED, WEIGHTS, shipped_folder
from sdvar_exp.store.features import CellFeatures, Kept, read_kept, write_kept
from sdvar_exp.store.images import unit_images
from sdvar_exp.store.manifest import read_cells
from sdvar_exp.store.provenance import versions

Network = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
NAMES = ("classifier", "inception")
VERSIONS = ("torch", "numpy", "pillow", "torchvision", "torch-fidelity")
PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Looker:
    """An extractor. digest: says which network it is to whoever compares features. source: SHA-256 of the code behind it."""

    name: str
    run: Network
    digest: str
    source: str = ""

    @torch.inference_mode()
    def key(self, image_hw3: np.ndarray) -> str:
        """The key of kept features: everything that made them, so that an edited network finds none.

        Code, weights, versions, and what the network makes of four images of the size of `image_hw3` (uint8): whatever
        changes its numbers in another way, such as a file that it reads, changes these.
        """
        probe = np.random.Generator(np.random.Philox(key=0)).integers(0, 256, (3, *image_hw3.shape), dtype=np.uint8)
        seen, predicted = _looked(self.run, np.stack([image_hw3, *probe]))
        about = {"digest": self.digest, "source": self.source, "versions": versions(VERSIONS)}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for part in (seen, predicted, *_weights(self.run)):
            if part is not None:
                digest.update(part.detach().cpu().float().numpy().tobytes())
        return "-".join([re.sub(r"[^\w.-]", "-", self.name), digest.hexdigest()[:16]])


def network(name: str, study: Path) -> Looker:
    """An extractor by its name: `classifier`, `inception`, a classifier's safetensors file, or `package.module:function`.

    The function takes no arguments and gives an extractor. study: the folder whose pair `classifier` belongs to.
    """
    if name == "classifier":
        folder = _pairs_folder(study)
        digest = str(json.loads((folder / "classifier.json").read_text(encoding="utf-8"))["sha256"])
        return Looker(name, _classifier(folder / "classifier.safetensors"), digest)
    if name.endswith(".safetensors"):
        path = expand(name)
        run, digest = _classifier(path), sha256(path)
        return Looker(f"{path.stem}-{digest[:8]}", run, digest)
    if name == "inception":
        return Looker(name, _inception(), "inception-v3-compat-2048")
    module, colon, function = name.partition(":")
    if not colon:
        raise UserError(
            f"--extractor must be {', '.join(NAMES)}, a classifier.safetensors or package.module:function, got {name!r}"
        )
    try:
        found = import_module(module)
        make = getattr(found, function)
        inspect.signature(make).bind()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        said = f"{error}; it is called without arguments and gives the network" if isinstance(error, TypeError) else error
        raise UserError(f"--extractor {name}: {said}") from None
    return Looker(name, make(), name, _source(found))


def _pairs_folder(study: Path) -> Path:
    """The folder with the classifier of the study's shipped pair; for all other models the embedded pair's."""
    names = {(cell["config"].get("model") or {}).get("name") for cell in read_cells(study).values()}
    found = {shipped_folder(name) if name in SHIPPED else WEIGHTS for name in names} or {WEIGHTS}
    if len(found) > 1:
        raise UserError(
            "--extractor classifier: this study has pairs with classifiers of their own; leave it out, `quality` then reads "
            "the features that were kept while decoding"
        )
    return found.pop()


def _source(start: ModuleType) -> str:
    """SHA-256 of the files of a module and of all that it uses, installed packages aside: those have versions."""
    installed = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    found: dict[str, bytes] = {}
    left = [start]
    while left:
        module = left.pop()
        file = getattr(module, "__file__", None)
        own = module is start or (file is not None and not str(file).startswith(installed))
        if module.__name__ in found or not own:
            continue
        path = Path(file) if file else None
        found[module.__name__] = path.read_bytes() if path is not None and path.is_file() else b""
        for value in vars(module).values():
            used = value if isinstance(value, ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
            left += [used] if used is not None else []
    return hashlib.sha256(b"\0".join(name.encode() + b"\0" + found[name] for name in sorted(found))).hexdigest()


def _weights(run: Network) -> Iterator[torch.Tensor]:
    """Tensors of a network that is a module, or a function or method around some."""
    around = [cell.cell_contents for cell in getattr(run, "__closure__", None) or ()]
    for part in (run, getattr(run, "__self__", None), *around):
        if isinstance(part, torch.nn.Module):
            yield from (value for value in part.state_dict().values() if isinstance(value, torch.Tensor))
        elif isinstance(part, torch.Tensor):
            yield part


def _classifier(path: Path) -> Network:
    model = load_classifier(path)

    def run(images_B3hw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if images_B3hw.shape[-2:] != (model.side, model.side):
            raise UserError(
                f"the classifier of {path.name} takes images of {model.side}×{model.side} pixels, these are "
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
        seen, predicted = _looked(run, batch)
        features.append(seen.float().cpu().numpy())
        if predicted is not None:
            classes.append(predicted.cpu().numpy())
    return np.concatenate(features), np.concatenate(classes) if classes else None


def _looked(run: Network, images_bhw3: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
    found = run(_batch(images_bhw3))
    if not isinstance(found, tuple) or len(found) != 2 or getattr(found[0], "ndim", 0) != 2:
        raise UserError("the network of --extractor must give a pair: features (B, d), and classes (B,) or None")
    return found


def _batch(images_bhw3: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images_bhw3.transpose(0, 3, 1, 2)))


def read_images(paths: Sequence[Path], batch: int = 50) -> Iterator[np.ndarray]:
    """RGB images (b, H, W, 3) uint8 of equal size, `batch` at a time. Raises `UserError` for a file that is no whole image."""
    for start in range(0, len(paths), batch):
        found = [np.asarray(_opened(path).convert("RGB")) for path in paths[start : start + batch]]
        if len({image.shape for image in found}) > 1:
            raise UserError(f"{paths[start].parent}: images differ in size; they must all be of one")
        yield np.stack(found)


def _opened(path: Path, whole: bool = True) -> Image.Image:
    """An image file; read to its end, or its head alone. Closed in either case."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if whole:
                    image.load()
                return image
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error).split(" '")[0]
        raise UserError(f"{path} is no whole image ({reason}): mend it or take it away") from None


def features_of_study(folder: Path, looker: Looker) -> dict[str, CellFeatures]:
    """Features of every cell with kept images, beside those of its baseline's images of the same units.

    Kept in `cache/features` of the study: images that were seen by the same network are not looked at again. A cell whose
    baseline keeps no image of a unit is left without that unit.
    """
    cells = read_cells(folder)
    files = {cell: found for cell in cells if (found := unit_images(folder / "images" / cell))}
    if not files:
        return {}
    first = next(iter(files.values()))[0][2]
    key = looker.key(next(read_images([first]))[0])
    seen = {cell: _kept(folder, looker, key, cell, found) for cell, found in files.items()}
    out = {}
    for cell, own in seen.items():
        base = seen.get(str(cells[cell]["baseline"]))
        if base is not None:
            out[cell] = own.beside(base, looker.digest)
    return {cell: found for cell, found in out.items() if len(found.labels)}


def _kept(folder: Path, looker: Looker, key: str, cell: str, files: list[tuple[int, int, Path]]) -> Kept:
    known = read_kept(folder, key, cell)
    units = [(label, seed) for label, seed, _ in files]
    images = hashlib.sha256()
    for _, _, path in files:
        images.update(hashlib.sha256(path.read_bytes()).digest())
    if known is not None and (known.units, known.images) == (units, images.hexdigest()):
        return known
    features, classes = features_of(looker.run, read_images([path for _, _, path in files]))
    kept = Kept(units, features, classes, images.hexdigest())
    write_kept(folder, key, cell, kept)
    return kept


def real_images(place: Path) -> Iterator[np.ndarray]:
    """Batches of real images: a folder of PNG or JPEG files, searched through, or an npz with `arr_0` (n, H, W, 3) uint8.

    Raises `UserError` before the first batch where there are none, they differ in size, or a file's head is no image's.
    """
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.suffix.lower() in PICTURES and not p.name.startswith("."))
        if not files:
            raise UserError(f"--real {place}: no PNG or JPEG file in it")
        sizes = Counter(_opened(path, whole=False).size for path in files)
        if len(sizes) > 1:
            (width, height), most = sizes.most_common(1)[0]
            raise UserError(
                f"--real {place}: its {len(files)} images have {len(sizes)} sizes, most ({most}) {width}×{height}; "
                "first scale and crop them to one size, that of the study's images"
            )
        return read_images(files)
    try:
        with np.load(place, allow_pickle=False) as file:
            images: Any = file["arr_0"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"--real {place}: give a folder of images or an npz with arr_0 (n, H, W, 3) uint8 ({error})") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise UserError(f"--real {place}: arr_0 must be (n, H, W, 3) uint8, got {images.shape} {images.dtype}")
    return (images[i : i + 50] for i in range(0, len(images), 50))
