"""Summary, terminal table and figures, from the results store alone: no torch, no model, nothing decoded.

`summarise(tables)` computes every number; `render_table` and `write_figures` only show them. Each is imported on first use:
a table needs no matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdvar_exp.report.console import render_table
    from sdvar_exp.report.figures import write_figures
    from sdvar_exp.report.summary import summarise

__all__ = ["render_table", "summarise", "write_figures"]

_PLACES = {"render_table": "console", "summarise": "summary", "write_figures": "figures"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
