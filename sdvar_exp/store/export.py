"""Kept images of a cell as the files that others' evaluators read: one npz, or a folder of PNG files.

The npz is the one of OpenAI's guided-diffusion evaluator, which VAR's authors use: `arr_0`, uint8 (N, H, W, 3). The order
is a fixed random one, as there: the Inception Score is computed over consecutive splits, which must not be single classes.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from sdvar_exp.errors import UserError
from sdvar_exp.store.files import atomic_write, storage_errors
from sdvar_exp.store.images import IMAGE_NAME


def usable(files: Sequence[tuple[int, int, Path]]) -> tuple[list[tuple[int, int, Path]], list[str]]:
    """The images that can be read and have the size of most of them, and one line for each that is left out."""
    sizes: dict[Path, tuple[int, int]] = {}
    problems = []
    for _, _, path in files:
        try:
            with Image.open(path) as image:
                image.load()
                sizes[path] = image.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            problems.append(f"{path} cannot be read ({error}): delete it and run the study again")
    usual = Counter(sizes.values()).most_common(1)[0][0] if sizes else None
    for path, (width, height) in sizes.items():
        if (width, height) != usual and usual is not None:
            problems.append(
                f"{path} is {width}×{height} pixels, the others {usual[0]}×{usual[1]}: they must all be of one size"
            )
    return [one for one in files if one[2] in sizes and sizes[one[2]] == usual], problems


def shuffled(files: Sequence[tuple[int, int, Path]]) -> list[Path]:
    """Their paths in a random order that is the same for the same number of files."""
    order = np.random.Generator(np.random.Philox(key=0x50)).permutation(len(files))
    return [files[i][2] for i in order]


def write_npz(files: Sequence[Path], out: Path) -> tuple[int, ...]:
    """Write RGB images of one size to `arr_0` of an npz, one image in memory at a time; the array's shape.

    Whole or not at all: a stopped export leaves `<name>.part`, which the next one replaces.
    """
    shape = (len(files), *_rgb(files[0]).shape)
    part = out.with_name(f"{out.name}.part")
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive,
            archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as stream,
        ):
            npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for path in files:
                image = _rgb(path)
                if image.shape != shape[1:]:
                    raise UserError(
                        f"{path} is {image.shape[1]}×{image.shape[0]} pixels, the first image "
                        f"{shape[2]}×{shape[1]}: they must all be of one size"
                    )
                stream.write(image.tobytes())
        os.replace(part, out)
    return shape


LABELS = "labels.csv"


def write_folder(files: Sequence[Path], out: Path) -> int:
    """Copy to `out` as 000000.png …, hard links where the disk allows; files that are there stay. How many were new.

    `labels.csv` beside them says the label and seed of each.
    """
    new = 0
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for i, path in enumerate(files):
            place = out / f"{i:06d}.png"
            if place.exists():
                continue
            try:
                os.link(path, place)
            except OSError:
                part = place.with_suffix(".part")
                shutil.copyfile(path, part)
                os.replace(part, place)
            new += 1
        names = [IMAGE_NAME.fullmatch(path.name) for path in files]
        lines = [f"{i:06d}.png,{int(m[1])},{int(m[2])}\n" for i, m in enumerate(names) if m]
        atomic_write(out / LABELS, ("file,label,seed\n" + "".join(lines)).encode())
    return new


def _rgb(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): delete it and run the study again") from None
