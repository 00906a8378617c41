"""`build_vae_var` and `build_vae_var_speculative_decoding` of the official and the SDVAR code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sdvar_exp.compat.models import OFFICIAL_SIDES, VAR, VQVAE
from sdvar_exp.compat.sdvar import SDVAR
from sdvar_exp.models.checkpoint import construct, fill, infer_var, infer_vqvae
from sdvar_exp.models.reading import read_state
from sdvar_exp.training.var import initialise


def _var(
    vae: VQVAE,
    device: torch.device | str,
    depth: int,
    num_classes: int,
    shared_aln: bool,
    attn_l2_norm: bool,
    patch_nums: Sequence[int],
) -> VAR:
    model = VAR(
        vae, num_classes, depth, depth * 64, depth, shared_aln=shared_aln, attn_l2_norm=attn_l2_norm, patch_nums=patch_nums
    )
    initialise(model)
    return model.to(device)


def build_vae_var(
    device: torch.device | str,
    patch_nums: Sequence[int] = OFFICIAL_SIDES,
    V: int = 4096,
    Cvae: int = 32,
    ch: int = 160,
    share_quant_resi: int = 4,
    num_classes: int = 1000,
    depth: int = 16,
    shared_aln: bool = False,
    attn_l2_norm: bool = True,
    flash_if_available: bool = True,
    fused_if_available: bool = True,
) -> tuple[VQVAE, VAR]:
    """A VQVAE and a VAR of width 64·depth with fresh weights, ready for `load_state_dict`."""
    vae = VQVAE(V, Cvae, ch, share_quant_resi=share_quant_resi, v_patch_nums=patch_nums).to(device)
    return vae, _var(vae, device, depth, num_classes, shared_aln, attn_l2_norm, patch_nums)


def build_vae_var_speculative_decoding(
    device: torch.device | str,
    patch_nums: Sequence[int] = OFFICIAL_SIDES,
    V: int = 4096,
    Cvae: int = 32,
    ch: int = 160,
    share_quant_resi: int = 4,
    num_classes: int = 1000,
    depth_draft: int = 16,
    depth_target: int = 30,
    shared_aln: bool = False,
    attn_l2_norm: bool = True,
    flash_if_available: bool = True,
    fused_if_available: bool = True,
    similarity_thresh: float = 0.8,
) -> tuple[VQVAE, VAR, VAR, SDVAR]:
    """VQVAE, draft, target and the pair of them; `similarity_thresh` is τ of its acceptance rule."""
    vae = VQVAE(V, Cvae, ch, share_quant_resi=share_quant_resi, v_patch_nums=patch_nums).to(device)
    draft, target = (
        _var(vae, device, depth, num_classes, shared_aln, attn_l2_norm, patch_nums) for depth in (depth_draft, depth_target)
    )
    return vae, draft, target, SDVAR(draft, target, similarity_thresh)


def from_files(vae: Path, draft: Path, target: Path, similarity_thresh: float = 0.5) -> SDVAR:
    """An `SDVAR` of three checkpoint files, of any shape that they imply; `UserError` where they do not fit."""
    state, what = read_state(target, "VAR"), f"checkpoint {target}"
    sides = infer_var(state, what)["patch_nums"]
    state, what = read_state(vae, "VQVAE"), f"checkpoint {vae}"
    shape = infer_vqvae(state, sides, what)
    of = [shape.pop(name) for name in ("vocab_size", "z_channels", "ch")]
    quantized = construct(VQVAE, what, *of, v_patch_nums=shape.pop("patch_nums"), **shape)
    fill(quantized, state, what)

    def var(path: Path) -> VAR:
        state, what = read_state(path, "VAR"), f"checkpoint {path}"
        shape = infer_var(state, what)
        of = [shape.pop(name) for name in ("num_classes", "depth", "width", "heads", "mlp_ratio")]
        model = construct(VAR, what, quantized, *of, **{k: shape[k] for k in ("shared_aln", "attn_l2_norm", "patch_nums")})
        fill(model, state, what)
        return model.eval().requires_grad_(False)

    return SDVAR(var(draft), var(target), similarity_thresh)
