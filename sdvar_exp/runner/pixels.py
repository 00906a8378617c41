"""Images of f̂, each decoded once: cells that commit the same tokens of a unit, and stages that they begin alike, share them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import torch

from sdvar_exp.cell import ModelSpec
from sdvar_exp.decoding.api import decode_images
from sdvar_exp.models.pair import Pair
from sdvar_exp.runner.result import to_numpy

KEPT_BYTES = 32 * 2**20
"""Of images that are kept: those of a unit in all cells, for small models."""


@dataclass
class Pixels:
    """Decodes one f̂ at a time, so that equal f̂ gives equal pixels; the last ones are kept, by the bytes of their f̂."""

    kept: OrderedDict[tuple[ModelSpec, bytes], np.ndarray] = field(default_factory=OrderedDict)
    size: int = 0

    def of(self, spec: ModelSpec, pair: Pair, f_hat_1chw: torch.Tensor) -> np.ndarray:
        """The image (3, H, W) in [0, 1], read-only. f_hat_1chw: of one image, made with `pair`, the pair of `spec`."""
        key = (spec, to_numpy(f_hat_1chw).tobytes())
        if key not in self.kept:
            self._keep(key, to_numpy(decode_images(pair, f_hat_1chw)[0]))
        self.kept.move_to_end(key)
        return self.kept[key]

    def _keep(self, key: tuple[ModelSpec, bytes], image: np.ndarray) -> None:
        image.flags.writeable = False
        self.kept[key] = image
        self.size += image.nbytes + len(key[1])
        while self.size > KEPT_BYTES and len(self.kept) > 1:
            old, dropped = self.kept.popitem(last=False)
            self.size -= dropped.nbytes + len(old[1])
