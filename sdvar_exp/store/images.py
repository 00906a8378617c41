"""Images as PNG files."""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from sdvar_exp.store.files import atomic_write

# How stage pictures colour the tokens of a stage (Okabe and Ito): the committed token is the draft's, or another one; the
# stage was sampled by the target, or committed as the draft made it, without a verdict.
STAGE_COLOURS = {"kept": (0, 114, 178), "replaced": (213, 94, 0), "target": (153, 153, 153), "draft": (86, 180, 233)}


IMAGE_NAME = re.compile(r"(\d{1,18})_(\d{1,18})(_\w+)?\.png")
"""Names of a unit's images: label, seed, suffix."""


def unit_images(folder: Path, suffix: str = "") -> list[tuple[int, int, Path]]:
    """(label, seed, file) of the images with a suffix, see `image_name`, that a cell's folder holds, in that order."""
    found = ((IMAGE_NAME.fullmatch(path.name), path) for path in folder.glob("*.png"))
    return sorted((int(m[1]), int(m[2]), path) for m, path in found if m and (m[3] or "") == suffix)


def image_name(label: int, seed: int, suffix: str = "") -> str:
    """`<label>_<seed><suffix>.png`.

    suffix: "" for the sample, "_diff" for the amplified difference, "_stages" for `runner.measuring.pictures.stage_picture`.
    """
    return f"{label}_{seed}{suffix}.png"


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image, whole or not at all: (3, H, W), (1, H, W) or (H, W) floats in [0, 1], or uint8 (H, W, 3).

    Values outside [0, 1] are clipped. ValueError for other shapes and for values that are not finite.
    """
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, "png")
    atomic_write(path, buffer.getvalue())


def link(path: Path, of: Path) -> bool:
    """Make `path` the same file as `of`, whole or not at all; False where `of` is missing or the file system has no links."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(of, temporary)
        os.replace(temporary, path)
    except OSError:
        return False
    finally:
        with suppress(OSError):  # it stays where both were one file already
            temporary.unlink(missing_ok=True)
    return True


def to_bytes(image: np.ndarray) -> np.ndarray:
    """uint8 array (H, W, 3) or (H, W), rounded to nearest."""
    array = np.asarray(image)
    if array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)):
        return array
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
    elif array.ndim != 2:
        raise ValueError(f"an image is (3, H, W), (1, H, W) or (H, W), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("an image has values that are not finite")
    return np.ascontiguousarray(np.round(np.clip(array, 0, 1) * 255).astype(np.uint8))
