"""`VQVAE` and `VAR` with the constructors and public methods of the official code."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sdvar_exp.cell import Cell, Sampling, Unit
from sdvar_exp.decoding.api import decode, decode_images
from sdvar_exp.errors import UserError
from sdvar_exp.models import quant, var, vqvae
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import choose

OFFICIAL_SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


class Quantizer(quant.MultiScaleQuantizer):
    """The quantizer with the official method name."""

    def idxBl_to_var_input(self, gt_ms_idx_Bl: Sequence[torch.Tensor]) -> torch.Tensor:
        """Teacher-forcing inputs (B, L-L_0, C_vae) from the codes of every stage, each (B, L_k)."""
        return self.teacher_input(gt_ms_idx_Bl)


class VQVAE(vqvae.VQVAE):
    """Official constructor and methods; images are (B, 3, H, W) in [-1, 1]."""

    def __init__(
        self,
        vocab_size: int = 4096,
        z_channels: int = 32,
        ch: int = 128,
        dropout: float = 0.0,
        beta: float = 0.25,
        using_znorm: bool = False,
        quant_conv_ks: int = 3,
        quant_resi: float = 0.5,
        share_quant_resi: int = 4,
        default_qresi_counts: int = 0,
        v_patch_nums: Sequence[int] = OFFICIAL_SIDES,
        test_mode: bool = True,
        *,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
    ) -> None:
        sides = tuple(v_patch_nums)
        if default_qresi_counts not in (0, len(sides)):
            raise UserError(f"default_qresi_counts must be 0 or {len(sides)}, got {default_qresi_counts}")
        super().__init__(
            sides,
            vocab_size,
            z_channels,
            ch,
            ch_mult,
            num_res_blocks,
            using_znorm,
            quant_resi,
            share_quant_resi,
            quant_conv_ks,
            dropout,
        )
        self.quantize = Quantizer(vocab_size, z_channels, sides, using_znorm, quant_resi, share_quant_resi)
        self.V, self.vocab_size, self.Cvae, self.beta, self.test_mode = vocab_size, vocab_size, z_channels, beta, test_mode
        if test_mode:
            self.eval().requires_grad_(False)

    def forward(self, inp: torch.Tensor, ret_usages: bool = False) -> tuple[torch.Tensor, list[float] | None, torch.Tensor]:
        """Reconstruction, per-stage share of codes used in this batch in % (if asked), VQ loss."""
        from sdvar_exp.training.vqvae import quantize_with_loss

        f_hat, loss, tokens, _ = quantize_with_loss(self.quantize, self.features(inp), self.beta)
        usages = [100 * len(t.unique()) / self.V for t in tokens] if ret_usages else None
        return self.decoder(self.post_quant_conv(f_hat)), usages, loss

    def fhat_to_img(self, f_hat: torch.Tensor) -> torch.Tensor:
        """Image from a feature map."""
        return self.decode(f_hat)

    def img_to_idxBl(self, inp_img_no_grad: torch.Tensor, v_patch_nums: Sequence[int] | None = None) -> list[torch.Tensor]:
        """Codes of every stage, each (B, L_k)."""
        self._same_sides(v_patch_nums)
        return self.image_to_tokens(inp_img_no_grad)

    def idxBl_to_img(
        self, ms_idx_Bl: Sequence[torch.Tensor], same_shape: bool, last_one: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Image after every stage, or after the last one only."""
        if not same_shape:
            raise UserError("same_shape=False is not how VAR is trained; use same_shape=True")
        f_hats = self.quantize.f_hats(ms_idx_Bl)
        return self.decode(f_hats[-1]) if last_one else [self.decode(f) for f in f_hats]

    def img_to_reconstructed_img(
        self, x: torch.Tensor, v_patch_nums: Sequence[int] | None = None, last_one: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Reconstruction after every stage, or after the last one only."""
        self._same_sides(v_patch_nums)
        _, f_hats = self.quantize.encode(self.features(x))
        return self.decode(f_hats[-1]) if last_one else [self.decode(f) for f in f_hats]

    def _same_sides(self, sides: Sequence[int] | None) -> None:
        if sides is not None and tuple(sides) != self.pyramid.patch_nums:
            raise UserError(f"v_patch_nums must be those of the model, {self.pyramid.patch_nums}, got {tuple(sides)}")


def draw_labels(label_B: int | torch.Tensor | None, batch: int, classes: int, seed: int) -> list[int]:
    """Labels as the official code reads them: None draws, an int fills (negative: the null class), a tensor gives."""
    if label_B is None:
        return [int(y) for y in np.random.Generator(np.random.Philox(key=seed)).integers(classes, size=batch)]
    null_or_one = classes if isinstance(label_B, int) and label_B < 0 else label_B
    labels = null_or_one.flatten().tolist() if isinstance(null_or_one, torch.Tensor) else [null_or_one] * batch
    if len(labels) != batch:
        raise UserError(f"label_B has {len(labels)} labels for B={batch}")
    if any(not 0 <= x <= classes for x in labels):
        raise UserError(f"labels must lie in 0 … {classes - 1} (or {classes}, the null class), got {labels}")
    return labels


def draw_units(B: int, label_B: int | torch.Tensor | None, g_seed: int | None, classes: int, more_smooth: bool) -> list[Unit]:
    """One unit per batch row, all with the seed `g_seed` (drawn if None); the row keys the noise."""
    if more_smooth:
        raise UserError("more_smooth changes the samples for display only and is not supported; leave it False")
    if B < 1:
        raise UserError(f"B must be ≥ 1, got {B}")
    seed = secrets.randbits(32) if g_seed is None else g_seed
    return [Unit(label, seed, row) for row, label in enumerate(draw_labels(label_B, B, classes, seed))]


def no_hidden_cache(enable: bool) -> None:
    """`blk.attn.kv_caching(…)` of the official code. Nothing to switch: modules hold no cache, each decode has its own."""


class VAR(var.VAR):
    """Official constructor, `forward` and `autoregressive_infer_cfg`. Dropout arguments other than the label's are refused."""

    def __init__(
        self,
        vae_local: vqvae.VQVAE,
        num_classes: int = 1000,
        depth: int = 16,
        embed_dim: int = 1024,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
        shared_aln: bool = False,
        cond_drop_rate: float = 0.1,
        attn_l2_norm: bool = False,
        patch_nums: Sequence[int] = OFFICIAL_SIDES,
        flash_if_available: bool = True,
        fused_if_available: bool = True,
    ) -> None:
        if drop_rate or attn_drop_rate:
            raise UserError("drop_rate and attn_drop_rate are 0 in every published VAR and not supported")
        q = vae_local.quantize
        super().__init__(
            tuple(patch_nums),
            q.vocab_size,
            q.width,
            num_classes,
            depth,
            embed_dim,
            num_heads,
            mlp_ratio,
            shared_aln,
            attn_l2_norm,
            norm_eps,
        )
        self.vae_proxy = (vae_local,)  # a tuple keeps it out of this module's parameters
        self.vae_quant_proxy = (q,)
        self.cond_drop_rate = cond_drop_rate
        self.V, self.C, self.Cvae, self.L = q.vocab_size, embed_dim, q.width, self.pyramid.total
        self.patch_nums, self.first_l = self.pyramid.patch_nums, self.pyramid.lengths[0]
        self.num_stages_minus_1 = self.pyramid.stages - 1
        self.begin_ends = list(zip(self.pyramid.offsets, self.pyramid.offsets[1:], strict=False))
        for block in self.layers:
            vars(block.attn).update(kv_caching=no_hidden_cache, k_cache=None, v_cache=None)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Official: (label_B, x_BLCv_wo_first_l) → logits (B, L, V), labels dropped in training mode only."""
        named = {"label_B", "x_BLCv_wo_first_l"} & set(kwargs)
        if not named and not (len(args) == 2 and args[0].ndim == 1):
            return super().forward(*args, **kwargs)
        labels, inputs = [*args, *(kwargs[k] for k in ("label_B", "x_BLCv_wo_first_l") if k in kwargs)]
        if self.training and self.cond_drop_rate > 0:
            dropped = torch.rand(len(labels), device=labels.device) < self.cond_drop_rate
            labels = torch.where(dropped, self.num_classes, labels)
        return self.teacher_logits(labels, inputs)

    @property
    def pair(self) -> Pair:
        """This model as both draft and target."""
        return Pair(self.vae_proxy[0], self, self, type(self).__name__, {})

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self,
        B: int,
        label_B: int | torch.Tensor | None,
        g_seed: int | None = None,
        cfg: float = 1.5,
        top_k: int = 0,
        top_p: float = 0.0,
        more_smooth: bool = False,
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1]; the same arguments give the same images on every device and batch size."""
        units = draw_units(B, label_B, g_seed, self.num_classes, more_smooth)
        cell = Cell(
            choose("strategy", "sequential"),
            choose("cfg_schedule", "linear", cfg=cfg),
            sampling=Sampling(top_k=top_k, top_p=top_p),
        )
        pair = self.pair
        return decode_images(pair, decode(pair, cell, units, record=False).f_hat)
