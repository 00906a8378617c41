"""The baseline of every comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdvar_exp.registry import Empty, register

if TYPE_CHECKING:
    from sdvar_exp.decoding.decoder import Decoder


@register("strategy", "sequential", reads=(), lossless="tokens")
def sequential(_: Empty, d: Decoder) -> None:
    """The target alone, stage by stage, with a KV cache: S calls (VAR, arXiv 2404.02905). The baseline."""
    while not d.done:
        d.sample_alone("target")
