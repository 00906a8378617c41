"""`decode`: from a pair, a cell and units to tokens, f̂, counts and per-stage outcomes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdvar_exp.cell import Cell, Noise, Unit
from sdvar_exp.decoding.clock import Clock, now_ms
from sdvar_exp.decoding.decoder import Decoder, Observer
from sdvar_exp.decoding.noise import NoiseBook, Stream
from sdvar_exp.decoding.options import OnReject
from sdvar_exp.decoding.outcomes import counts, margins, near_ties, outcomes, passes
from sdvar_exp.decoding.records import Decoded
from sdvar_exp.errors import UserError
from sdvar_exp.models.pair import Pair

__all__ = ["Clock", "Decoded", "NoiseBook", "check_cell", "decode", "decode_images", "make_noise", "now_ms"]


def streams_read(cell: Cell) -> tuple[Stream, ...]:
    """The noise streams that decoding this cell reads."""
    out = [Stream.target]
    if cell.sampling.noise is Noise.independent and "noise" in cell.reads:
        out.append(Stream.draft)
    if cell.acceptance is not None:
        out += [Stream(s) for s in cell.acceptance.entry.meta.get("streams", ())]
    return tuple(out)


def make_noise(pair: Pair, units: Sequence[Unit], cells: Sequence[Cell] = ()) -> NoiseBook:
    """The noise of the units, with every stream that the cells read made now, outside the clock."""
    book = NoiseBook(pair.pyramid, pair.target.vocab_size, units, pair.target.device)
    for cell in cells:
        book.prepare(streams_read(cell))
    return book


def check_cell(
    cell: Cell, stages: int, units: Sequence[Unit] = (), classes: int | None = None, pair: Pair | None = None
) -> None:
    """Raise `UserError` if the cell cannot be decoded with a pyramid of `stages` stages, or by this pair, or a label has no
    class."""
    proposer = cell.proposer if "proposer" in cell.reads else None
    for choice in (cell.strategy, proposer):
        meta = choice.entry.meta if choice else {}
        if "check" in meta:
            meta["check"](cell, stages)
        if pair is not None and "check_pair" in meta:
            meta["check_pair"](cell, pair)
    for unit in units:
        if classes is not None and not 0 <= unit.label < classes:
            raise UserError(f"label must lie in 0 … {classes - 1}, got {unit.label}")


@torch.inference_mode()
def decode(
    pair: Pair,
    cell: Cell,
    units: Sequence[Unit],
    *,
    noise: NoiseBook | None = None,
    clock: Clock | None = None,
    record: bool = True,
    observer: Observer | None = None,
) -> Decoded:
    """Decode B units in lockstep.

    Args:
        pair: VQVAE, draft and target on one device and dtype.
        cell: what to do; its `batch` is the caller's affair.
        units: label and seed of each image; label `num_classes` is the null class.
        noise: made by `make_noise` ahead; made on demand if None.
        clock: receives the time of draft, verify, accept and f̂.
        record: also compute per-stage acceptance, distances, margins and near-ties, after all decoding is done.
        observer: told of every forward and round; changes nothing.
    Raises:
        UserError: factors that do not fit together, or a label without a class.
        ValueError: noise of other units.
    """
    if not units:
        raise UserError("decode needs at least one unit")
    check_cell(cell, pair.pyramid.stages, units, pair.num_classes + 1, pair)
    if len(units) > 1 and getattr(cell.strategy.params, "on_reject", None) is OnReject.redraft:
        raise UserError("on_reject=redraft decodes images one by one: use batch=1")
    noise = noise or make_noise(pair, units)
    if noise.units != tuple(units):
        raise ValueError(f"the noise was made for {noise.units}, not for {tuple(units)}")
    d = Decoder(pair, cell, units, noise, clock, observer)
    cell.strategy.entry.function(cell.strategy.params, d)
    if not d.done:
        raise UserError(f"strategy={cell.strategy.name} committed {d.committed} of {d.stages} stages")
    return Decoded(
        tuple(d.tokens),
        d.f_hats[-1],
        counts(d),
        outcomes(d, record),
        tuple(d.rounds),
        margins(d) if record else None,
        passes(d),
        tuple(d.drafted.get(k) for k in range(d.stages)) if record else (),
        tuple(near_ties(d).sum(dim=1).tolist()) if record else None,
    )


@torch.inference_mode()
def decode_images(pair: Pair, f_hat_Bchw: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) in [0, 1]."""
    return (pair.vae.decode(f_hat_Bchw) + 1) / 2
