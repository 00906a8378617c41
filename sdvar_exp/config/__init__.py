"""Configuration: Hydra and `conf/` on one side, plain frozen `Plan`, `Cell` and `Choice` objects on the other.

The only package that imports Hydra; nothing here imports torch. `compose(argv)` is all that the rest needs.
"""

from sdvar_exp.config.build import compose
from sdvar_exp.config.errors import ConfigErrors
from sdvar_exp.config.overrides import quoted

__all__ = ["ConfigErrors", "compose", "quoted"]
