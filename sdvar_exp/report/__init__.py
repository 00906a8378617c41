"""Summary, terminal table and figures, from the results store alone: no torch, no model, nothing decoded.

`summarise(tables)` computes every number; `render_table` and `write_figures` only show them.
"""

from sdvar_exp.report.console import render_table
from sdvar_exp.report.figures import write_figures
from sdvar_exp.report.summary import summarise

__all__ = ["render_table", "summarise", "write_figures"]
