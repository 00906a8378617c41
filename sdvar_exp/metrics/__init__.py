"""Numbers from arrays: how far an image moved, and how sure a mean is. numpy and SciPy only, no torch, no tables.

Each name is imported on first use: who reads what a quantity is (`quantities`) needs no SciPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Interval": "statistics",
    "identical_bound": "statistics",
    "mean_interval": "statistics",
    "ratio_interval": "statistics",
    "unit_means": "statistics",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sdvar_exp.metrics.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
