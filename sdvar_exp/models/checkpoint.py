"""Models from checkpoint files: shapes are inferred from the weights, and checked before any memory is asked for."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sdvar_exp.errors import UserError
from sdvar_exp.models.reading import State, read_state, shown
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE

Module = TypeVar("Module", bound=nn.Module)


@runtime_checkable
class Derives(Protocol):
    """A module with buffers that follow from its shape."""

    def derive(self) -> None:
        """Make these buffers."""


# buffers that the constructor makes; files may leave them out
DERIVED = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias", "ema_vocab_hit_SV")
MOST_POSITIONS = 1 << 15  # of a pyramid; 512² has 2,240
MOST_PARTS = 256  # blocks, levels and the like; the deepest VAR has 36 blocks


def sha256(path: Path) -> str:
    """Hash of a file's bytes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _count(state: State, pattern: str, what: str) -> int:
    """Count the indices that `pattern` (one group) finds among the names."""
    count = len({m.group(1) for name in state if (m := re.match(pattern, name))})
    if count > MOST_PARTS:
        raise UserError(f"{what}: its names count {count:,} parts like {shown(pattern.partition('(')[0])}, which no model has")
    return count


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
    if state["lvl_1L"].numel() > MOST_POSITIONS:
        raise UserError(f"{what}: lvl_1L has {state['lvl_1L'].numel():,} positions, more than any pyramid")
    _check_plain("lvl_1L", state["lvl_1L"], what)
    if state["lvl_1L"].is_complex() or state["lvl_1L"].dtype == torch.bool:
        kind = str(state["lvl_1L"].dtype).removeprefix("torch.")
        raise UserError(f"{what}: lvl_1L is {kind}, which counts no stages: save it in int64")
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
        "depth": _count(state, r"blocks\.(\d+)\.", what),
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
    levels = _count(state, r"encoder\.down\.(\d+)\.", what)
    mult = tuple(_shape(state, f"encoder.down.{i}.block.0.conv2.weight", what, 4)[0] // ch for i in range(levels))
    shared = _count(state, r"quantize\.quant_resi\.qresi_ls\.(\d+)\.", what)
    if "quantize.quant_resi.qresi.weight" in state:
        shared = 1
    return {
        "patch_nums": patch_nums,
        "vocab_size": vocab_size,
        "z_channels": z_channels,
        "ch": ch,
        "ch_mult": mult,
        "num_res_blocks": _count(state, r"encoder\.down\.0\.block\.(\d+)\.", what),
        "share_quant_resi": shared,
        "quant_conv_ks": _shape(state, "quant_conv.weight", what, 4)[-1],
    }


def differences(state: State, module: nn.Module) -> list[str]:
    """Words for what a state dict lacks, has too much of, or has in another shape, in words."""
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
        f"{len(names)} {kind} ({', '.join(map(shown, names[:3]))}{', …' if len(names) > 3 else ''})"
        for kind, names in (("missing", missing), ("unexpected", extra))
        if names
    ]
    return out + shapes[:3] + ([f"{len(shapes) - 3} more of another shape"] if len(shapes) > 3 else [])


def fill(module: nn.Module, state: State, what: str) -> None:
    """Load a state dict after checking names, shapes and values; `UserError` says exactly what differs.

    A module on the meta device gets memory of its own, in float32.
    """
    wrong = differences(state, module)
    if wrong:
        raise UserError(f"{what} does not fit: {'; '.join(wrong)}")
    own = module.state_dict()
    skeleton = any(tensor.is_meta for tensor in own.values())
    _check_size({name: state[name] for name in own if name in state}, what)
    values = {}
    for name, tensor in state.items():
        dtype = torch.float32 if skeleton and own[name].is_floating_point() else own[name].dtype
        if name.rsplit(".", 1)[-1] not in DERIVED:
            values[name] = _value(name, tensor, dtype, what)
        elif tensor.shape == own[name].shape and _is_plain(tensor) and not tensor.is_complex():
            values[name] = tensor.to(dtype, copy=True)
    for part in module.modules() if skeleton else ():
        if isinstance(part, Derives):
            part.derive()
    module.load_state_dict(values, strict=False, assign=skeleton)
    if skeleton:
        module.float()


def _check_size(state: State, what: str) -> None:
    """Raise `UserError` if the weights are far more than what the file keeps for them, as repeated views can be."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    storages = [t.untyped_storage() for t in state.values() if t.layout == torch.strided]
    kept = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if claimed > 4 * kept + (1 << 20):
        raise UserError(f"{what}: {claimed:,} bytes of weights repeat the {kept:,} that it keeps: save them with .contiguous()")


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has all its values in memory of its own, not sparse and not on the meta device."""
    return tensor.layout == torch.strided and not tensor.is_meta and tensor.untyped_storage().nbytes() > 0


def _check_plain(name: str, tensor: torch.Tensor, what: str) -> None:
    if not _is_plain(tensor):
        where = "without values" if tensor.layout == torch.strided else f"in the layout {tensor.layout}"
        raise UserError(f"{what}: {name} is saved {where}: save plain tensors")


def _value(name: str, tensor: torch.Tensor, dtype: torch.dtype, what: str) -> torch.Tensor:
    """A checked copy of one weight in `dtype`."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if not tensor.is_floating_point():
        raise UserError(f"{what}: {name} is {kind}, weights are floating-point: save them in float32, bfloat16 or float16")
    _check_plain(name, tensor, what)
    try:
        value = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    except RuntimeError:
        raise UserError(f"{what}: {name} is {kind}, which cannot be read here: save it in float32") from None
    if not value.isfinite().all():
        raise UserError(f"{what} is damaged: {name} holds values that are not finite")
    return value


class Undrawn(TorchFunctionMode):
    """Leaves fresh weights undrawn: drawing for the meta device would load PyTorch's compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def construct(kind: Callable[..., Module], what: str, *args: Any, **kwargs: Any) -> Module:
    """A module of an inferred shape on the meta device, without memory; `UserError` where no module has it."""
    try:
        with Undrawn(), torch.device("meta"):
            return kind(*args, **kwargs)
    except (ValueError, RuntimeError, ZeroDivisionError, OverflowError) as error:
        raise UserError(f"{what} fits no {kind.__name__}: {shown(str(error).splitlines()[0])}") from None


def build_var(path: Path) -> VAR:
    """A VAR transformer from a checkpoint file, in evaluation mode, float32."""
    what, state = f"checkpoint {shown(path, 4096)}", read_state(path, "VAR")
    with _part_named(path):
        model = construct(VAR, what, **infer_var(state, what))
        fill(model, state, what)
    return model.eval().requires_grad_(False)


def build_vqvae(path: Path, patch_nums: tuple[int, ...], using_znorm: bool = False) -> VQVAE:
    """A VQVAE from a checkpoint file, in evaluation mode, float32."""
    what, state = f"checkpoint {shown(path, 4096)}", read_state(path, "VQVAE")
    with _part_named(path):
        model = construct(VQVAE, what, **infer_vqvae(state, patch_nums, what), using_znorm=using_znorm)
        fill(model, state, what)
    return model.eval().requires_grad_(False)


@contextmanager
def _part_named(path: Path) -> Iterator[None]:
    """Say of a file that does not fit that it is one of several, where its name says so."""
    try:
        yield
    except UserError as error:
        if part := re.search(r"(\d+)-of-(\d+)\.", path.name):
            whole = f"part {int(part[1])} of {int(part[2])}"
            raise UserError(f"{error}; its name says {whole}: join the parts into one safetensors file") from None
        raise
