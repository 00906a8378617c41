"""Images and labels for training: Fashion-MNIST's IDX files, or a folder of pictures, one subfolder a class.

Reads gzipped IDX files (Debian package `dataset-fashion-mnist`) or `{train,t10k}/<class>/*.png`; downloads nothing.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from sdvar_exp.errors import UserError

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes as an array of its own shape."""
    if not path.is_file():
        raise UserError(f"{path} is missing: install Debian's dataset-fashion-mnist or set data_folder")
    raw = gzip.decompress(path.read_bytes())
    zero, kind, dims = struct.unpack(">HBB", raw[:4])
    if zero != 0 or kind != 8:
        raise UserError(f"{path} is not an IDX file of bytes")
    shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def load_split(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 28, 28) uint8, or (n, h, w, 3) of a folder of pictures, and labels (n,) int64 of `train` or `t10k`."""
    if (folder / split).is_dir():
        return _pictures(folder / split)
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def _pictures(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures of all class folders, in the order of their names; they must have one size."""
    images, labels = [], []
    for label, place in enumerate(sorted(p for p in folder.iterdir() if p.is_dir())):
        for file in sorted(place.glob("*.png")):
            with Image.open(file) as picture:
                images.append(np.asarray(picture.convert("RGB")))
            labels.append(label)
            if images[-1].shape != images[0].shape:
                raise UserError(f"{file} is {picture.width}×{picture.height}; all pictures of {folder} must have one size")
    if not images:
        raise UserError(f"{folder} holds no class folders with PNG files")
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def prepare(images_Nhw: torch.Tensor, side: int) -> torch.Tensor:
    """(N, 3, side, side) float32 in [-1, 1] from (N, h, w) grey or (N, h, w, 3) colour bytes, bilinear."""
    x = (images_Nhw[:, None] if images_Nhw.ndim == 3 else images_Nhw.movedim(-1, 1)).float() / 127.5 - 1
    x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
    return x.expand(-1, 3, -1, -1)
