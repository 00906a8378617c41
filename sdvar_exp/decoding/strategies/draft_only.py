"""The floor of quality and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdvar_exp.registry import Empty, register

if TYPE_CHECKING:
    from sdvar_exp.decoding.decoder import Decoder


@register("strategy", "draft_only", reads=("noise",))
def draft_only(_: Empty, d: Decoder) -> None:
    """The draft alone, stage by stage: the floor of quality and cost."""
    while not d.done:
        d.sample_alone("draft")
