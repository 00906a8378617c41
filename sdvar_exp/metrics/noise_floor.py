"""The noise floor: how far two baseline images of one label lie apart when only the seed differs.

Printed beside every comparison: a lossy cell that moves images this far has kept nothing of the baseline's draw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from sdvar_exp.metrics.fidelity import correlation, pixel_mae


def noise_floor(images: Mapping[tuple[int, int], np.ndarray]) -> list[dict[str, Any]]:
    """One row per pair of seeds of a label: label, seed, other_seed, pixel_mae, correlation.

    images: baseline images by (label, seed), each (3, H, W) in [0, 1]. Pairs of a label share images, so they are not
    independent: their mean is an estimate of the floor, their spread is no interval of it.
    """
    seeds = defaultdict(list)
    for label, seed in sorted(images):
        seeds[label].append(seed)
    rows = []
    for label, of_label in seeds.items():
        for seed, other in combinations(of_label, 2):
            a, b = images[label, seed], images[label, other]
            row = {"label": label, "seed": seed, "other_seed": other}
            rows.append(row | {"pixel_mae": pixel_mae(a, b), "correlation": correlation(a, b)})
    return rows
