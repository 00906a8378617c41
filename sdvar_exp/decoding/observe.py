"""The seam for whoever watches a decode: told of each forward of a model and of each round; nothing is called unwatched.

An observer may look at everything and change nothing. `diagnosis.trace` writes down what it sees, `diagnosis` checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from sdvar_exp.decoding.decoder import Decoder, Judged, Proposal
    from sdvar_exp.decoding.session import ModelSession


@dataclass(frozen=True)
class Forward:
    """One forward of a model, after it.

    first, stop: stages whose rows were fed. x_NqC: the rows. mask_qK: attention, None for all. batch_rows: which rows of the
    doubled batch were fed. before, after: rows in the cache. logits_NqV: of every row, before guidance.
    """

    first: int
    stop: int
    x_NqC: torch.Tensor
    mask_qK: torch.Tensor | None
    batch_rows: slice
    before: int
    after: int
    logits_NqV: torch.Tensor


class Observer(Protocol):
    """What `decode` and `Decoder` take."""

    def forward(self, role: str, session: ModelSession, forward: Forward) -> None:
        """Called after each forward of the `draft` or the `target`."""

    def round(self, decoder: Decoder, proposal: Proposal, verdicts: Sequence[Judged]) -> None:
        """Called when a round is over: committed, rolled back and logged as `decoder.rounds[-1]`."""
