"""Mean pixel difference between the kept images of two cells of a study, unit by unit.

`python scripts/compare_images.py results/reference "test3 K=5" "parallel_v1 always <5 γ=5"`; without names, all pairs.
8-bit PNGs are compared, so a difference below 1/510 reads as 0.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sdvar_exp.errors import UserError
from sdvar_exp.store import load_tables


def difference(folder: Path, a: str, b: str) -> tuple[float, float, int]:
    """Mean and largest of mean |a-b| on [0, 1] over the units that both cells kept, and their number."""
    found = []
    for path in sorted((folder / "images" / a).glob("*.png")):
        other = folder / "images" / b / path.name
        if not path.stem.endswith(("_diff", "_stages")) and other.is_file():
            x, y = (np.asarray(Image.open(p).convert("RGB"), dtype=np.float64) / 255 for p in (path, other))
            found.append(np.abs(x - y).mean())
    if not found:
        raise UserError(f"cells {a} and {b} have no image in common in {folder}")
    return float(np.mean(found)), float(np.max(found)), len(found)


def main(argv: list[str]) -> int:
    try:
        if len(argv) not in (1, 3):
            raise UserError("usage: compare_images.py STUDY_FOLDER [CELL_NAME CELL_NAME]")
        folder = Path(argv[0])
        runs = load_tables(folder).runs
        ids = dict(zip(runs["name"], runs["cell"], strict=True))
        unknown = [name for name in argv[1:] if name not in ids]
        if unknown:
            raise UserError(f"no cell named {unknown[0]!r}; there are: {', '.join(ids)}")
        for a, b in [tuple(argv[1:])] if argv[1:] else itertools.combinations(ids, 2):
            mean, largest, n = difference(folder, ids[a], ids[b])
            sys.stdout.write(f"{mean:.4f} (largest {largest:.4f}, n = {n})  {a}  |  {b}\n")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
