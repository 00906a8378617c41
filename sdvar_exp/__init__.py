"""Experiments and ablations in speculative decoding of visual autoregressive (next-scale) models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdvar_exp.api import Study as Study
    from sdvar_exp.store.results import load_results as load_results

__version__ = "0.1.0"

_HOME = {"Study": "sdvar_exp.api", "load_results": "sdvar_exp.store.results"}
__all__ = ["Study", "__version__", "load_results"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is used: `import sdvar_exp` alone loads nothing."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
