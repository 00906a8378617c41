"""The classifier whose features distances between sets of images are measured in; each pair of the package has one."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from sdvar_exp.errors import UserError
from sdvar_exp.models.layers import TensorMap
from sdvar_exp.models.reading import read_file

FEATURES = 64
SIDE = 40  # pixels of the images that the embedded pair's takes


class Classifier(nn.Module):
    """A small convolutional network: (B, 3, side, side) in [0, 1] → features (B, 64) → logits (B, classes).

    side: a multiple of 8. channels: 3, or 1 for the mean of them, as for grey images. No normalisation that depends on the
    batch.
    """

    def __init__(self, classes: int = 10, width: int = 32, side: int = SIDE, channels: int = 1) -> None:
        super().__init__()
        self.side, self.channels = side, channels
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(8, width * n) for n in (1, 2, 4))
        self.hidden = nn.Linear(4 * width * (side // 8) ** 2, FEATURES)
        self.out: TensorMap = nn.Linear(FEATURES, classes)

    def features(self, image_B3hw: torch.Tensor) -> torch.Tensor:
        """Activations before the last layer, (B, 64), ≥ 0."""
        x = (image_B3hw.mean(1, keepdim=True) if self.channels == 1 else image_B3hw) * 2 - 1
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2), (self.conv3, self.norm3)):
            x = F.max_pool2d(F.relu(norm(conv(x))), 2)
        return F.relu(self.hidden(x.flatten(1)))

    def forward(self, image_B3hw: torch.Tensor) -> torch.Tensor:
        return self.out(self.features(image_B3hw))


def load_classifier(path: Path) -> Classifier:
    """The classifier of a safetensors file, in float32, of the shape that it has there; `UserError` where there is none."""
    if not path.is_file():
        raise UserError(f"{path.name} is not in {path.parent}: give one that part=classifier wrote, or reinstall the package")
    found = read_file(path)
    state = {name: t.float() for name, t in found.items() if isinstance(t, torch.Tensor)} if isinstance(found, dict) else {}
    try:
        (width, channels, *_), classes = state["conv1.weight"].shape, len(state["out.weight"])
        side = 8 * math.isqrt(state["hidden.weight"].shape[1] // (4 * width))
        model = Classifier(classes, width, side, channels)
    except (KeyError, ValueError, IndexError, TypeError, RuntimeError, ZeroDivisionError):
        model = Classifier()
    if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in model.state_dict().items()}:
        raise UserError(f"{path} is not the classifier of this version: train it anew with part=classifier")
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)
