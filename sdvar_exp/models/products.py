"""The products of a transformer in other ways than `F.linear`: their weights are prepared once, when a model is loaded.

Int8 is another precision; oneDNN's own layout (`Prepacked`) is the same product, at another speed.

A prepared weight stands in `packed` of its layer and is called with rows (…, in), a bias (out,) and whether GELU follows.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F

from sdvar_exp.cell import Cell
from sdvar_exp.errors import UserError
from sdvar_exp.registry import plain

LEVELS = 63  # an activation lies in -63 … 63: a sum of two products with int8 weights then fits 16 bits, as AVX2 needs
HALVES = {
    "float16": ("avx512_fp16", "amx_fp16", "fp16", "fp16_arith", "sve_fp16"),
    "bfloat16": ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16"),
}
_engine = threading.Lock()


class Packed(Protocol):
    """A prepared weight."""

    def __call__(self, h: torch.Tensor, bias: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        """h·Wᵀ + bias, (…, out) in the type of h, then GELU (tanh) if asked."""


Weight = torch.Tensor | Packed


class Int8:
    """A weight in int8 per output channel, times activations that are rounded per row in every call; sums in int32.

    Each row has a scale of its own and sums of whole numbers are exact, so a row's result does not depend on the rows beside
    it nor on the processor. Needs FBGEMM, PyTorch's int8 library for x86 processors.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        wide = weight.detach().double()
        scale = wide.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        with _engine, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantised tensors are to leave PyTorch, these operators are not
            rounded = torch.quantize_per_channel(
                wide.float(), scale, torch.zeros(len(scale), dtype=torch.int64), 0, torch.qint8
            )
            before, torch.backends.quantized.engine = torch.backends.quantized.engine, "fbgemm"
            try:
                self.weight = torch.ops.quantized.linear_prepack(rounded, None)
            finally:
                torch.backends.quantized.engine = before

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8:
        return self  # never changed

    def __call__(self, h: torch.Tensor, bias: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        rows = h if h.dtype == torch.float32 else h.float()
        largest = rows.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        out = torch.addcmul(bias.float(), multiply(rows / largest, 1 / LEVELS, LEVELS + 1, self.weight), largest)
        return (F.gelu(out, approximate="tanh") if gelu else out).to(h.dtype)


class Prepacked:
    """A weight in the layout that oneDNN likes best for products with so many rows, in float32 or bfloat16.

    Sums are the same as those of `F.linear` but for the order of their terms. fused: GELU is applied inside the product.
    Fewer rows than `least` go through `F.linear`, for which `plain` keeps the weight as it was.
    Raises `RuntimeError` where this processor or build has no such products.
    """

    def __init__(self, weight: torch.Tensor, rows: int, fused: bool) -> None:
        self.dtype, self.fused, self.least, self.plain = weight.dtype, fused, 0, weight.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> Prepacked:
        return self  # never changed

    def __call__(self, h: torch.Tensor, bias: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        h, bias, inside = h.to(self.dtype), bias.to(self.dtype), gelu and self.fused
        if h.numel() < self.least * h.shape[-1]:
            out, inside = F.linear(h, self.plain, bias), False
        else:
            then, kind = ("gelu", "tanh") if inside else ("none", "")
            out = torch.ops.mkldnn._linear_pointwise(h, self.weight, bias, then, [], kind)
        done: torch.Tensor = torch.ops.aten.gelu_(out, approximate="tanh") if gelu and not inside else out
        return done


def weight_of(layer: nn.Linear) -> Weight:
    """The prepared weight of a layer, where it has one, else its weight (out, in)."""
    return cast(Weight, vars(layer).get("packed", layer.weight))


def round_to_int8(model: Any) -> None:
    """Replace the weights of a transformer's products by int8 ones, in place; the float ones are freed.

    Raises:
        UserError: a device or a processor without them.
    """
    check_int8(model.device.type)
    for layer in model.products:
        layer.packed = Int8(layer.weight)
        layer.weight.data = layer.weight.data[:0].clone()


def check_int8(kind: str) -> None:
    """Raise `UserError` where a kind of device has no int8 products."""
    if kind != "cpu":
        raise UserError(f"int8 runs on a CPU, and device={kind} is none: use bfloat16 there, or device=cpu")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        raise UserError("int8 needs an x86 processor and a PyTorch with FBGEMM: use bfloat16 or float32")


def slow(precision: str) -> bool:
    """Whether this processor has no arithmetic in a half precision and computes it by way of float32."""
    found = torch.cpu.get_capabilities()
    return precision in HALVES and not any(found.get(name) for name in HALVES[precision])


def remarks(cell: Cell, dtype: str, device: str) -> list[str]:
    """Remarks on a cell's arithmetic in a study of this dtype, before anything is loaded.

    device: as in a command; it need not be there. Raises `UserError` for int8 where there is none.
    """
    kind = device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    proposer = cell.proposer.params if cell.proposer and "proposer" in cell.reads else None
    asked = {dtype, cell.model.autocast, *cell.model.dtypes.values(), str(plain(getattr(proposer, "precision", "")))}
    if "int8" in asked:
        check_int8(kind)
    out = []
    if kind == "cpu":
        halves = [precision for precision in sorted(asked) if slow(precision)]
        out += [f"{one} is slow on this CPU, which has no such arithmetic: use float32 or int8" for one in halves]
    if kind == "cpu" and cell.model.execution == "compile":
        out.append("model.execution=compile is slower than eager on a CPU and compiles every shape of a pass anew: use eager")
    return out
