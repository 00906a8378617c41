"""The VQVAE around the quantizer: convolutional encoder and decoder with the official parameter names.

The architecture is the VQGAN one (Esser et al., arXiv 2012.09841) that VAR's checkpoints use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from sdvar_exp.models.layers import TensorMap
from sdvar_exp.models.quant import MultiScaleQuantizer
from sdvar_exp.pyramid import Pyramid


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def _conv(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel_size=3, padding=1)


class Resample(nn.Module):
    """Halve (stride-2 convolution) or double (nearest, then convolution) the resolution."""

    def __init__(self, channels: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv: TensorMap = nn.Conv2d(channels, channels, 3, stride=2 if down else 1, padding=0 if down else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.down:
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ResBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(c_in), _conv(c_in, c_out)
        self.norm2, self.conv2 = _norm(c_out), _conv(c_out, c_out)
        self.dropout = nn.Dropout(dropout)
        self.nin_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return torch.add(self.nin_shortcut(x), h)


class AttnBlock(nn.Module):
    """Single-head self-attention over all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out: TensorMap = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(B, 3, 1, c, h * w).transpose(3, 4).unbind(1)
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(out.transpose(2, 3).reshape(B, c, h, w))


class Level(nn.Module):
    """One resolution: residual blocks, each followed by attention at the lowest resolution, then a resampling."""

    downsample: TensorMap
    upsample: TensorMap

    def __init__(self, channels: list[tuple[int, int]], attention: bool, dropout: float) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(a, b, dropout) for a, b in channels)
        self.attn = nn.ModuleList(AttnBlock(b) for _, b in channels if attention)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        for i, block in enumerate(self.block):
            h = block(h)
            if len(self.attn):
                h = self.attn[i](h)
        if hasattr(self, "downsample"):
            return self.downsample(h)
        return self.upsample(h) if hasattr(self, "upsample") else h


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, attention: bool, dropout: float) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, dropout)
        self.attn_1 = AttnBlock(channels) if attention else nn.Identity()
        self.block_2: TensorMap = ResBlock(channels, channels, dropout)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.attn_1(self.block_1(h)))


class Encoder(nn.Module):
    def __init__(
        self, ch: int, ch_mult: Sequence[int], blocks: int, z_channels: int, dropout: float = 0.0, attention: bool = True
    ) -> None:
        super().__init__()
        self.conv_in = _conv(3, ch)
        self.down = nn.ModuleList()
        width, last = ch, len(ch_mult) - 1
        for i, mult in enumerate(ch_mult):
            out = ch * mult
            pairs = [(width if j == 0 else out, out) for j in range(blocks)]
            level = Level(pairs, attention and i == last, dropout)
            if i != last:
                level.downsample = Resample(out, down=True)
            self.down.append(level)
            width = out
        self.mid = Middle(width, attention, dropout)
        self.norm_out = _norm(width)
        self.conv_out: TensorMap = _conv(width, z_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        h = self.mid(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    def __init__(
        self, ch: int, ch_mult: Sequence[int], blocks: int, z_channels: int, dropout: float = 0.0, attention: bool = True
    ) -> None:
        super().__init__()
        last = len(ch_mult) - 1
        width = ch * ch_mult[last]
        self.conv_in = _conv(z_channels, width)
        self.mid = Middle(width, attention, dropout)
        levels: list[Level] = []
        for i in range(last, -1, -1):
            out = ch * ch_mult[i]
            pairs = [(width if j == 0 else out, out) for j in range(blocks + 1)]
            level = Level(pairs, attention and i == last, dropout)
            if i != 0:
                level.upsample = Resample(out, down=False)
            levels.insert(0, level)
            width = out
        self.up = nn.ModuleList(levels)
        self.norm_out = _norm(width)
        self.conv_out: TensorMap = _conv(width, 3)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class VQVAE(nn.Module):
    """Image ↔ multi-scale codes. Images are (B, 3, H, W) in [-1, 1]; f̂ is (B, C_vae, side, side)."""

    def __init__(
        self,
        patch_nums: Sequence[int],
        vocab_size: int = 4096,
        z_channels: int = 32,
        ch: int = 160,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        using_znorm: bool = False,
        quant_resi: float = 0.5,
        share_quant_resi: int = 4,
        quant_conv_ks: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(ch, ch_mult, num_res_blocks, z_channels, dropout)
        self.decoder = Decoder(ch, ch_mult, num_res_blocks, z_channels, dropout)
        self.quantize = MultiScaleQuantizer(vocab_size, z_channels, patch_nums, using_znorm, quant_resi, share_quant_resi)
        pad = quant_conv_ks // 2
        self.quant_conv: TensorMap = nn.Conv2d(z_channels, z_channels, quant_conv_ks, padding=pad)
        self.post_quant_conv = nn.Conv2d(z_channels, z_channels, quant_conv_ks, padding=pad)
        self.downsample = 2 ** (len(ch_mult) - 1)

    @property
    def pyramid(self) -> Pyramid:
        return self.quantize.pyramid

    @property
    def device(self) -> torch.device:
        return self.quantize.embedding.weight.device

    def features(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Continuous features before quantization, (B, C_vae, side, side)."""
        return self.quant_conv(self.encoder(image_B3HW))

    def image_to_tokens(self, image_B3HW: torch.Tensor) -> list[torch.Tensor]:
        """Codes of every stage, each (B, L_k) int64."""
        return self.quantize.encode(self.features(image_B3HW))[0]

    def decode(self, f_hat_Bchw: torch.Tensor) -> torch.Tensor:
        """Image (B, 3, H, W) in [-1, 1] from a feature map."""
        own, given = self.post_quant_conv.weight.dtype, f_hat_Bchw.dtype  # f̂ itself is kept in float32 at least
        image: torch.Tensor = self.decoder(self.post_quant_conv(f_hat_Bchw.to(own)))
        return (image if own == given else image.to(given)).clamp(-1, 1)
