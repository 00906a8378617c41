"""Runs a plan: decodes its units, times them, writes tables and figures. The one part that knows all others."""

from sdvar_exp.runner.run import run_study

__all__ = ["run_study"]
