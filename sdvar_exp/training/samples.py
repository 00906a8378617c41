"""Images of the shipped pair over a grid of guidance and truncation: what `part=evaluate` measures.

Drawn by the decoder that studies use, the target alone (`sequential`) and the draft alone (`draft_only`), with the noise
of (label, seed): the same units, so the same noise, in every setting.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sdvar_exp.cell import Cell, Sampling, Unit
from sdvar_exp.decoding import decode, decode_images, make_noise
from sdvar_exp.errors import require
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import choose

log = logging.getLogger(__name__)

STRATEGIES = {"target": "sequential", "draft": "draft_only"}


@dataclass(frozen=True)
class EvaluateSettings:
    """The grid is cfgs × (top_ks[i], top_ps[i]), linear guidance; per_class images of each class for each setting.

    Fréchet distances need ten samples per feature, 640 for the shipped classifier. batch: images decoded in lockstep.
    """

    per_class: int = 65
    batch: int = 25
    cfgs: tuple[float, ...] = (0.0, 1.5, 3.0, 5.0)
    top_ks: tuple[int, ...] = (0, 0, 100)
    top_ps: tuple[float, ...] = (0.0, 0.95, 0.9)

    def __post_init__(self) -> None:
        require(self.per_class > 0 and self.batch > 0, "evaluate.per_class and evaluate.batch must be > 0")
        require(
            len(self.top_ks) == len(self.top_ps) > 0 and len(self.cfgs) > 0,
            "evaluate.top_ks and evaluate.top_ps are lists of one length, neither they nor evaluate.cfgs empty",
        )


@dataclass(frozen=True)
class Setting:
    """One model under one guidance strength and truncation."""

    model: str
    cfg: float
    top_k: int
    top_p: float

    @property
    def key(self) -> str:
        """`target-cfg1.5-k0-p0.95`."""
        return f"{self.model}-cfg{self.cfg:g}-k{self.top_k}-p{self.top_p:g}"

    def cell(self) -> Cell:
        """The cell of a study that decodes the same images."""
        return Cell(
            choose("strategy", STRATEGIES[self.model]),
            choose("cfg_schedule", "linear", cfg=self.cfg),
            sampling=Sampling(top_k=self.top_k, top_p=self.top_p),
        ).normalised()


def grid(s: EvaluateSettings) -> list[Setting]:
    """All settings, the target's first."""
    cuts = list(zip(s.top_ks, s.top_ps, strict=True))
    return [Setting(model, cfg, k, p) for model in STRATEGIES for cfg in s.cfgs for k, p in cuts]


def labels_of(s: EvaluateSettings, classes: int) -> np.ndarray:
    """Labels (n,) of the units in order: seed by seed, all classes each."""
    return np.tile(np.arange(classes), s.per_class)


@torch.inference_mode()
def draw_grid(pair: Pair, s: EvaluateSettings, folder: Path) -> dict[str, np.ndarray]:
    """Grey images (n, side, side) uint8 of every setting by its key, in the order of `labels_of`.

    Kept in `folder`, one file per batch under a name that holds what they depend on, so that a stopped call continues.
    """
    settings, labels = grid(s), labels_of(s, pair.num_classes)
    units = [Unit(int(y), i // pair.num_classes) for i, y in enumerate(labels)]
    folder = folder / "-".join((pair.hashes["target"][:8], pair.hashes["draft"][:8], pair.hashes["vae"][:8], str(s.batch)))
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[np.ndarray]] = {setting.key: [] for setting in settings}
    for start in range(0, len(units), s.batch):
        own, path = units[start : start + s.batch], folder / f"{start:05d}-{len(units[start : start + s.batch])}.npz"
        found = _load(path)
        noise = None
        for setting in settings:
            if setting.key not in found:
                noise = noise or make_noise(pair, own)
                out = decode(pair, setting.cell(), own, noise=noise, record=False)
                grey = decode_images(pair, out.f_hat).mean(1)
                found[setting.key] = (grey * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        if noise is not None:
            _save(path, found)
            log.info("samples: %d/%d units in %d settings", start + len(own), len(units), len(settings))
        for setting in settings:
            parts[setting.key].append(found[setting.key])
    return {key: np.concatenate(arrays) for key, arrays in parts.items()}


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    part = path.with_suffix(".part")
    part.write_bytes(buffer.getvalue())
    part.replace(path)
