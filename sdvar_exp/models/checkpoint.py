"""Reading checkpoints: official `.pth` files (safely) and safetensors, with shapes inferred from what the file holds."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import nn

from sdvar_exp.errors import UserError
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE

State = dict[str, torch.Tensor]
Module = TypeVar("Module", VAR, VQVAE)

# buffers that the constructor makes; files may leave them out
DERIVED = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias", "ema_vocab_hit_SV")
# where trainers of VAR-like models put the weights
NESTS = ("trainer", "var_wo_ddp", "model", "state_dict")


def sha256(path: Path) -> str:
    """Hash of a file's bytes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_state(path: Path) -> State:
    """Names and tensors of a checkpoint file; runs no code from it.

    Raises:
        UserError: missing, truncated, not a checkpoint, or holding anything but tensors.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as f:
                return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
        raw: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path} cannot be read (truncated, or not a checkpoint of tensors): {reason}") from None
    return _unnest(raw, path)


def _unnest(raw: Any, path: Path) -> State:
    while isinstance(raw, Mapping) and not any(isinstance(v, torch.Tensor) for v in raw.values()):
        inner = next((raw[k] for k in NESTS if k in raw), None)
        if inner is None:
            raise UserError(f"checkpoint {path} holds no tensors under {', '.join(NESTS)}")
        raw = inner
    if not isinstance(raw, Mapping):
        raise UserError(f"checkpoint {path} holds a {type(raw).__name__}, not names and tensors")
    return {str(k): v for k, v in raw.items() if isinstance(v, torch.Tensor)}


def _count(state: State, pattern: str) -> int:
    """How many indices `pattern` (one group) finds among the names."""
    return len({m.group(1) for name in state if (m := re.match(pattern, name))})


def _shape(state: State, name: str, what: str, dims: int) -> tuple[int, ...]:
    if name not in state:
        raise UserError(f"{what}: {name} is missing, so this is no such checkpoint")
    shape = tuple(state[name].shape)
    if len(shape) != dims or 0 in shape:
        raise UserError(f"{what}: {name} has shape {shape}, it should have {dims} dimensions")
    return shape


def _sides(state: State, what: str) -> tuple[int, ...]:
    """patch_nums from `lvl_1L`, the stage of every position."""
    if "lvl_1L" not in state:
        raise UserError(f"{what}: lvl_1L is missing, so patch_nums cannot be inferred")
    stage = state["lvl_1L"].flatten().long()
    if not len(stage) or stage[0] != 0 or not ((stage.diff() == 0) | (stage.diff() == 1)).all():
        raise UserError(f"{what}: lvl_1L does not count the stages up from 0, so patch_nums cannot be inferred")
    counts = torch.bincount(stage).tolist()
    sides = tuple(math.isqrt(n) for n in counts)
    if any(p * p != n for p, n in zip(sides, counts, strict=True)):
        raise UserError(f"{what}: lvl_1L has stages of {counts} tokens, which are not squares")
    return sides


def infer_var(state: State, what: str = "VAR checkpoint") -> dict[str, Any]:
    """Constructor arguments of `VAR` from the shapes of a state dict (heads: width / 64 without cosine attention)."""
    vocab_size, width = _shape(state, "head.weight", what, 2)
    scale = "blocks.0.attn.scale_mul_1H11"
    heads = _shape(state, scale, what, 4)[1] if scale in state else max(1, width // 64)
    if width % heads:
        raise UserError(f"{what}: {heads} heads do not divide a width of {width}")
    return {
        "patch_nums": _sides(state, what),
        "vocab_size": vocab_size,
        "code_width": _shape(state, "word_embed.weight", what, 2)[1],
        "num_classes": _shape(state, "class_emb.weight", what, 2)[0] - 1,
        "depth": _count(state, r"blocks\.(\d+)\."),
        "width": width,
        "heads": heads,
        "mlp_ratio": _shape(state, "blocks.0.ffn.fc1.weight", what, 2)[0] / width,
        "shared_aln": "shared_ada_lin.1.weight" in state,
        "attn_l2_norm": scale in state,
    }


def infer_vqvae(state: State, patch_nums: tuple[int, ...], what: str = "VQVAE checkpoint") -> dict[str, Any]:
    """Constructor arguments of `VQVAE` from the shapes of a state dict; the stages are the transformer's."""
    vocab_size, z_channels = _shape(state, "quantize.embedding.weight", what, 2)
    ch = _shape(state, "encoder.conv_in.weight", what, 4)[0]
    levels = _count(state, r"encoder\.down\.(\d+)\.")
    mult = tuple(_shape(state, f"encoder.down.{i}.block.0.conv2.weight", what, 4)[0] // ch for i in range(levels))
    shared = _count(state, r"quantize\.quant_resi\.qresi_ls\.(\d+)\.")
    if "quantize.quant_resi.qresi.weight" in state:
        shared = 1
    return {
        "patch_nums": patch_nums,
        "vocab_size": vocab_size,
        "z_channels": z_channels,
        "ch": ch,
        "ch_mult": mult,
        "num_res_blocks": _count(state, r"encoder\.down\.0\.block\.(\d+)\."),
        "share_quant_resi": shared,
        "quant_conv_ks": _shape(state, "quant_conv.weight", what, 4)[-1],
    }


def differences(state: State, module: nn.Module) -> list[str]:
    """What a state dict lacks, has too much of, or has in another shape, in words."""
    own = module.state_dict()
    derived = {k for k in own if k.rsplit(".", 1)[-1] in DERIVED}
    missing = sorted(set(own) - set(state) - derived)
    extra = sorted(set(state) - set(own))
    shapes = [
        f"{k} is {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the model"
        for k in sorted(set(own) & set(state) - derived)
        if own[k].shape != state[k].shape
    ]
    out = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in (("missing", missing), ("unexpected", extra))
        if names
    ]
    return out + shapes[:3] + ([f"{len(shapes) - 3} more of another shape"] if len(shapes) > 3 else [])


def fill(module: nn.Module, state: State, what: str) -> None:
    """Load a state dict after checking names and shapes; `UserError` says exactly what differs."""
    wrong = differences(state, module)
    if wrong:
        raise UserError(f"{what} does not fit: {'; '.join(wrong)}")
    own = module.state_dict()
    usable = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    for name, tensor in usable.items():
        if tensor.is_floating_point() and name.rsplit(".", 1)[-1] not in DERIVED and not tensor.isfinite().all():
            raise UserError(f"{what} is damaged: {name} holds values that are not finite")
    module.load_state_dict(own | {k: v.to(own[k].dtype) for k, v in usable.items()})


def _construct(kind: type[Module], shape: dict[str, Any], path: Path) -> Module:
    """A module of the inferred shape; `UserError` where no module has it."""
    try:
        return kind(**shape)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"checkpoint {path} fits no {kind.__name__}: {str(error).splitlines()[0][:120]}") from None


def build_var(path: Path) -> VAR:
    """A VAR transformer from a checkpoint file, in evaluation mode, float32."""
    state = read_state(path)
    model = _construct(VAR, infer_var(state, f"checkpoint {path}"), path)
    fill(model, state, f"checkpoint {path}")
    return model.eval().requires_grad_(False)


def build_vqvae(path: Path, patch_nums: tuple[int, ...], using_znorm: bool = False) -> VQVAE:
    """A VQVAE from a checkpoint file, in evaluation mode, float32."""
    state = read_state(path)
    shape = infer_vqvae(state, patch_nums, f"checkpoint {path}")
    model = _construct(VQVAE, shape | {"using_znorm": using_znorm}, path)
    fill(model, state, f"checkpoint {path}")
    return model.eval().requires_grad_(False)
