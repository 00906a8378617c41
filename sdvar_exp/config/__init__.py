"""Configuration: Hydra and `conf/` on one side, plain frozen `Plan`, `Cell` and `Choice` objects on the other.

The only package that imports Hydra, and only when something is composed; nothing here imports torch. `compose(argv)` is all
that the rest needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdvar_exp.config.build import compose
    from sdvar_exp.config.errors import ConfigErrors
    from sdvar_exp.config.overrides import quoted

__all__ = ["ConfigErrors", "compose", "quoted"]

_HOMES = {"compose": "build", "ConfigErrors": "errors", "quoted": "overrides"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: the command line's own words are read without Hydra."""
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"sdvar_exp.config.{_HOMES[name]}"), name)
