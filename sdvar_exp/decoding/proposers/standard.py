"""The proposers: what makes the stages that the target verifies. torch is imported when a proposer runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, cast

from sdvar_exp.errors import require
from sdvar_exp.guest import expand
from sdvar_exp.models.files import SHIPPED, shipped_files
from sdvar_exp.registry import Empty, plain, register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell
    from sdvar_exp.decoding.decoder import Decoder
    from sdvar_exp.decoding.evidence import Proposal
    from sdvar_exp.models.hidden import HiddenRows
    from sdvar_exp.models.pair import Pair
    from sdvar_exp.models.var import VAR

Weights = Sequence[float] | None


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
    refuse_recorded(cell, f"proposer={cell.proposer.name if cell.proposer else ''}")


def refuse_recorded(cell: Cell, shown: str) -> None:
    """The same for what a message calls `shown`."""
    recorded = cell.model.execution in ("compile", "graphs")
    require(not recorded, f"{shown} needs model.execution=eager, got {cell.model.execution}")


def not_deeper(cell: Cell, pair: Pair) -> None:
    """Refuse more blocks than the target has."""
    within(*_depth(cell), pair.target.depth)


def not_deeper_than_its_file(cell: Cell) -> None:
    """The same before any model is loaded."""
    within(*_depth(cell), blocks_of_file(cell))


def _depth(cell: Cell) -> tuple[str, int]:
    return "proposer.depth", cell.proposer.params.depth if cell.proposer else 0


def within(option: str, depth: int, whole: int | None) -> None:
    """Refuse more first blocks than the `whole` target has, if that is known."""
    fits = whole is None or depth <= whole
    require(fits, f"{option}={depth} is deeper than the target, which has {whole} blocks: use 1 … {whole}")


def blocks_of_file(cell: Cell) -> int | None:
    """Blocks of the target if its file is a safetensors one at hand, else None; loading tells of damaged ones."""
    from safetensors import SafetensorError, safe_open

    if not cell.model.target and cell.model.name not in SHIPPED:
        return None
    file = expand(cell.model.target) if cell.model.target else shipped_files(cell.model.name)["target"]
    names = list[str]()
    with suppress(OSError, SafetensorError), safe_open(file, "np") as content:
        names = list(content.keys())
    return len({name.split(".")[1] for name in names if name.startswith("blocks.")}) or None


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


@dataclass(frozen=True)
class Matrices:
    """file: safetensors file of the matrices, as `scripts/train.py part=distilled distilled.hidden=true` leaves it.

    digest: start of its SHA-256, filled in by itself, so that the cell id changes with its content.
    """

    file: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        if self.file:
            path = expand(self.file)
            require(path.is_file(), f"proposer.file={self.file} is not a file: give that which the training left")
            found = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            known = self.digest in ("", found)
            require(known, f"proposer.file={self.file} has changed since its digest {self.digest} was noted: leave that out")
            object.__setattr__(self, "digest", found)


def whole_stages(cell: Cell, stages: int) -> None:
    """Refuse recorded programs, copies of a stage, whose hidden rows are not kept, and stages that the draft lacks."""
    eager_only(cell, stages)
    copies = getattr(cell.strategy.params, "candidates", 0)
    require(not copies, f"proposer=hidden_rows takes no strategy.candidates, got {copies}")
    fill = plain(getattr(cell.strategy.params, "draft_fill", "recompute"))
    require(fill == "recompute", f"proposer=hidden_rows needs strategy.draft_fill=recompute, got {fill}")


def matrices_fit(cell: Cell, pair: Pair) -> None:
    """Refuse no matrices, or those of another pair's widths."""
    given = cell.proposer.params.file if cell.proposer else ""
    require(bool(given), "proposer=hidden_rows reads matrices from a file: set proposer.file=FILE (docs/extending.md)")
    if cell.proposer:
        _matrices(cell.proposer.params, pair)


def _matrices(s: Matrices, pair: Pair) -> HiddenRows:
    from sdvar_exp.models.hidden import read_matrices

    return read_matrices(s.file, s.digest, pair.target.width, pair.draft.head.weight)


@register("proposer", "hidden_rows", Matrices, draft=True, by_round=True, check=whole_stages, check_pair=matrices_fit)
def hidden_rows(s: Matrices, d: Decoder, proposal: Proposal, count: int, weights: Weights) -> None:
    """The draft, fed the target's last hidden rows of the stage before too, by trained matrices (EAGLE, arXiv 2401.15077)."""
    from sdvar_exp.models.hidden import Fed

    session = d.session("draft", weights)
    if not isinstance(session.model, Fed):
        session.model = cast("VAR", Fed(d.pair.draft, _matrices(s, d.pair), d.session("target").keep_hidden()))
    d.draft_stages(proposal, count, weights)


@register("proposer", "none", check=eager_only, share=lambda params, pair: 1.0)
def none(_: Empty, d: Decoder, proposal: Proposal, count: int, weights: Weights) -> None:
    """No other model: the target samples all proposed stages in one pass, every row built from the committed f̂."""
    d.sample_from_one_f_hat(proposal, count, weights)
