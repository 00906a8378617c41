"""VAR transformer, multi-scale VQVAE, KV cache and checkpoints. `load_pair` is loaded on first use (it needs torch)."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("Pair", "load_pair", "resolve_device"):
        from sdvar_exp.models import pair

        return getattr(pair, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
