"""Who proposes the stages that the target verifies. torch is imported when a proposer runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from sdvar_exp.errors import require
from sdvar_exp.guest import expand
from sdvar_exp.registry import Empty, register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell
    from sdvar_exp.decoding.decoder import Decoder, Proposal
    from sdvar_exp.models.pair import Pair

Weights = Sequence[float] | None
SHIPPED_TARGET = Path(__file__).parents[2] / "models/weights/target.safetensors"


@register("proposer", "draft", usual=True)
def draft(_: Empty, d: Decoder, proposal: Proposal, count: int, weights: Weights) -> None:
    """The draft model, stage after stage."""
    d.draft_stages(proposal, count, weights)


@dataclass(frozen=True)
class Depth:
    """depth: blocks of the target that propose."""

    depth: int = 2

    def __post_init__(self) -> None:
        require(self.depth >= 1, f"proposer.depth must be ≥ 1, got {self.depth}")


def eager_only(cell: Cell, stages: int) -> None:
    """Refuse recorded programs, which hold a whole model."""
    name = cell.proposer.name if cell.proposer else ""
    recorded = cell.model.execution in ("compile", "graphs")
    require(not recorded, f"proposer={name} needs model.execution=eager, got {cell.model.execution}")


def not_deeper(cell: Cell, pair: Pair) -> None:
    """Refuse more blocks than the target has."""
    _within(cell, pair.target.depth)


def not_deeper_than_its_file(cell: Cell) -> None:
    """The same before any model is loaded, where the target's is a safetensors file at hand; loading tells of damaged ones."""
    from safetensors import SafetensorError, safe_open

    file, names = expand(cell.model.target) if cell.model.target else SHIPPED_TARGET, list[str]()
    with suppress(OSError, SafetensorError), safe_open(file, "np") as content:
        names = list(content.keys())
    blocks = {name.split(".")[1] for name in names if name.startswith("blocks.")}
    if blocks:
        _within(cell, len(blocks))


def _within(cell: Cell, whole: int) -> None:
    d = cell.proposer.params.depth if cell.proposer else 0
    require(d <= whole, f"proposer.depth={d} is deeper than the target, which has {whole} blocks: use 1 … {whole}")


@register(
    "proposer",
    "target_at_depth",
    Depth,
    check=eager_only,
    check_files=not_deeper_than_its_file,
    check_pair=not_deeper,
    share=lambda params, pair: params.depth / pair.target.depth,
)
def target_at_depth(s: Depth, d: Decoder, proposal: Proposal, count: int, weights: Weights) -> None:
    """The target's first blocks with its head, on the target's own KV cache (early exit, LayerSkip, arXiv 2404.16710)."""
    from sdvar_exp.models.derived import first_blocks

    d.draft_stages(proposal, count, weights, first_blocks(d.pair.target, s.depth), share_cache=True)


class Precision(Enum):
    """bfloat16, or products in int8."""

    bfloat16 = "bfloat16"
    int8 = "int8"


@dataclass(frozen=True)
class Quantised:
    """precision: bfloat16 | int8 (products of int8 weights, a scale per channel, and activations rounded per row)."""

    precision: Precision = Precision.bfloat16


def wider(cell: Cell, stages: int) -> None:
    """Refuse a copy of what is in int8 already, and recorded programs."""
    eager_only(cell, stages)
    require(cell.model.execution == "eager", "proposer=target_quantised needs model.execution=eager, got auto")
    whole = cell.model.target_dtype != "int8"
    require(whole, "proposer=target_quantised rounds a target in float, this one is in int8: drop model.target.dtype=int8")


@register("proposer", "target_quantised", Quantised, check=wider, share=lambda params, pair: 1.0)
def target_quantised(s: Quantised, d: Decoder, proposal: Proposal, count: int, weights: Weights) -> None:
    """A copy of the target in less precision, on a KV cache of its own (QuantSpec, arXiv 2502.10424)."""
    from sdvar_exp.models.derived import less_precise

    d.draft_stages(proposal, count, weights, less_precise(d.pair.target, s.precision.value))


@register("proposer", "none", check=eager_only, share=lambda params, pair: 1.0)
def none(_: Empty, d: Decoder, proposal: Proposal, count: int, weights: Weights) -> None:
    """No other model: the target samples all proposed stages in one pass, every row built from the committed f̂."""
    d.sample_from_one_f_hat(proposal, count, weights)
