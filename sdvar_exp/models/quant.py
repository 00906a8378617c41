"""The multi-scale residual quantizer of VAR (Tian et al., arXiv 2404.02905, algorithms 1 and 2).

Parameter names and shapes are those of the official checkpoints. Nothing is changed in place: `accumulate`
gives a new feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sdvar_exp.models.layers import TensorMap
from sdvar_exp.pyramid import Pyramid


class Phi(nn.Conv2d):
    """φ: a 3×3 convolution blended with the identity, (1-r)·h + r·conv(h)."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__(width, width, kernel_size=3, padding=1)
        self.ratio = abs(ratio)

    def forward(self, h_Bchw: torch.Tensor) -> torch.Tensor:
        return h_Bchw * (1 - self.ratio) + super().forward(h_Bchw) * self.ratio


class SharedPhi(nn.Module):
    """One φ for all stages (`share_quant_resi` = 1)."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.qresi = Phi(width, ratio)

    def at(self, depth: float) -> nn.Module:
        return self.qresi


class PartiallySharedPhi(nn.Module):
    """n φ shared by the stages (`share_quant_resi` = n): each stage takes the nearest tick."""

    def __init__(self, count: int, width: int, ratio: float) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(Phi(width, ratio) for _ in range(count))

    def at(self, depth: float) -> nn.Module:
        return self.qresi_ls[nearest_tick(depth, len(self.qresi_ls))]


class SeparatePhi(nn.ModuleList):
    """One φ per stage (`share_quant_resi` = 0)."""

    def __init__(self, count: int, width: int, ratio: float) -> None:
        super().__init__(Phi(width, ratio) for _ in range(count))

    def at(self, depth: float) -> nn.Module:
        return self[nearest_tick(depth, len(self))]


@lru_cache(maxsize=1024)
def nearest_tick(depth: float, count: int) -> int:
    """Index of the φ for a stage at relative depth k/(S-1), as the official code spaces them."""
    edge = 1 / 3 / count if count == 4 else 1 / 2 / count
    ticks = np.linspace(edge, 1 - edge, count)
    return int(np.argmin(np.abs(ticks - depth)))


class MultiScaleQuantizer(nn.Module):
    """Codebook and φ of all stages: features → codes → accumulated features.

    Args:
        vocab_size: V, number of codes.
        width: C_vae, code width.
        patch_nums: sides of the stages.
        using_znorm: look codes up by cosine similarity instead of the Euclidean distance.
        quant_resi: blend of φ (0.5: half convolution, half identity).
        share_quant_resi: 0 one φ per stage, 1 one for all, n that many shared.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        patch_nums: Sequence[int],
        using_znorm: bool = False,
        quant_resi: float = 0.5,
        share_quant_resi: int = 4,
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(tuple(patch_nums))
        self.vocab_size, self.width, self.using_znorm = vocab_size, width, using_znorm
        self.embedding = nn.Embedding(vocab_size, width)
        self.quant_resi: SharedPhi | PartiallySharedPhi | SeparatePhi
        if share_quant_resi == 1:
            self.quant_resi = SharedPhi(width, quant_resi)
        elif share_quant_resi == 0:
            self.quant_resi = SeparatePhi(self.pyramid.stages, width, quant_resi)
        else:
            self.quant_resi = PartiallySharedPhi(share_quant_resi, width, quant_resi)
        self.derive()

    def derive(self) -> None:
        """Names of the counts of codes used in training, which nothing here reads."""
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(self.pyramid.stages, self.vocab_size))

    def phi(self, stage: int) -> TensorMap:
        last = self.pyramid.stages - 1
        return self.quant_resi.at(stage / last if last else 0.0)

    def contribution(self, stage: int, h_Bchw: torch.Tensor) -> torch.Tensor:
        """The contribution of code vectors (B, c, p_k, p_k) of `stage` to f̂: upsample, then φ_k. (B, c, side, side)."""
        if stage != self.pyramid.stages - 1:
            h_Bchw = F.interpolate(h_Bchw, size=(self.pyramid.side,) * 2, mode="bicubic")
        return self.phi(stage)(h_Bchw)

    def code_map(self, stage: int, tokens_Bl: torch.Tensor) -> torch.Tensor:
        """Code vectors of the tokens of one stage, (B, c, p_k, p_k)."""
        p = self.pyramid.patch_nums[stage]
        return F.embedding(tokens_Bl, self.embedding.weight).transpose(1, 2).reshape(-1, self.width, p, p)

    def empty(self, batch: int) -> torch.Tensor:
        """f̂ before any stage: zeros (B, c, side, side)."""
        w = self.embedding.weight
        return w.new_zeros(batch, self.width, self.pyramid.side, self.pyramid.side)

    def accumulate(self, stage: int, tokens_Bl: torch.Tensor, f_hat_Bchw: torch.Tensor) -> torch.Tensor:
        """f̂_k from f̂_{k-1} and the codes of stage k, as a new tensor (B, c, side, side)."""
        return f_hat_Bchw + self.contribution(stage, self.code_map(stage, tokens_Bl))

    def next_input(self, stage: int, f_hat_Bchw: torch.Tensor) -> torch.Tensor:
        """Input rows of `stage` before the word embedding: f̂_{stage-1} area-averaged to p_k. (B, L_k, c)."""
        p = self.pyramid.patch_nums[stage]
        return F.interpolate(f_hat_Bchw, size=(p, p), mode="area").flatten(2).transpose(1, 2)

    def nearest(self, z_Nc: torch.Tensor) -> torch.Tensor:
        """Index of the code nearest to each vector, (N,)."""
        if self.using_znorm:
            z = F.normalize(z_Nc, dim=-1)
            return torch.argmax(z @ F.normalize(self.embedding.weight, dim=-1).T, dim=1)
        w = self.embedding.weight
        distance = z_Nc.square().sum(1, keepdim=True) + w.square().sum(1) - 2 * z_Nc @ w.T
        return torch.argmin(distance, dim=1)

    def encode(self, f_Bchw: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Residual quantization of features: tokens (B, L_k) and f̂_k of every stage."""
        rest, f_hat = f_Bchw, torch.zeros_like(f_Bchw)
        tokens, f_hats = [], []
        for k, p in enumerate(self.pyramid.patch_nums):
            z = rest if k == self.pyramid.stages - 1 else F.interpolate(rest, size=(p, p), mode="area")
            idx = self.nearest(z.permute(0, 2, 3, 1).reshape(-1, self.width)).view(len(f_Bchw), -1)
            h = self.contribution(k, self.code_map(k, idx))
            f_hat, rest = f_hat + h, rest - h
            tokens.append(idx)
            f_hats.append(f_hat)
        return tokens, f_hats

    def f_hats(self, tokens: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """f̂_0 … f̂_{n-1} of the given stages' tokens, each (B, c, side, side)."""
        f_hat, out = self.empty(len(tokens[0])), []
        for k, idx in enumerate(tokens):
            f_hat = self.accumulate(k, idx, f_hat)
            out.append(f_hat)
        return out

    def teacher_input(self, tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """Teacher-forcing inputs of the stages 1 … from the codes of the stages before each, (B, L-L_0, c)."""
        maps = self.f_hats(tokens[: self.pyramid.stages - 1])
        return torch.cat([self.next_input(k + 1, f) for k, f in enumerate(maps)], dim=1)
