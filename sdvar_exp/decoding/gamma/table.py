"""γ by stage, from a table."""

from __future__ import annotations

from dataclasses import dataclass

from sdvar_exp.decoding.gamma import GammaContext
from sdvar_exp.errors import require
from sdvar_exp.registry import register


@dataclass(frozen=True)
class Table:
    """values: γ for a round that starts at stage 0, 1, …; the last value holds for all later stages. 0: target alone."""

    values: tuple[int, ...] = (4, 4, 3, 3, 2, 2, 1, 1, 1, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        require(
            len(self.values) > 0 and all(isinstance(v, int) and v >= 0 for v in self.values),
            f"gamma.values must be integers ≥ 0, got {list(self.values)}",
        )


@register("gamma", "table", Table, zero=lambda g: 0 in g.values)
def table(g: Table, context: GammaContext) -> tuple[int, str]:
    """γ = values[n], n the first stage of the round; 0 is the target alone for one stage."""
    return g.values[min(context.stage, len(g.values) - 1)], f"table[{context.stage}]"
