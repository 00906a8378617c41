"""Runs a plan: decodes its units, times them, writes tables and figures. The one part that knows all others.

Modules are imported when they are used: a worker whose models need no torch does not import it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["run_study"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("sdvar_exp.runner.running.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
