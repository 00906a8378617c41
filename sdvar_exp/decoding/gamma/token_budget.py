"""As many stages as fit into a budget of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from sdvar_exp.decoding.gamma import GammaContext
from sdvar_exp.errors import require
from sdvar_exp.registry import register


@dataclass(frozen=True)
class TokenBudget:
    """tokens: largest number of rows of one verify pass per image; at least one stage is proposed."""

    tokens: int = 128

    def __post_init__(self) -> None:
        require(self.tokens >= 1, f"gamma.tokens must be ≥ 1, got {self.tokens}")


@register("gamma", "token_budget", TokenBudget)
def token_budget(g: TokenBudget, context: GammaContext) -> tuple[int, str]:
    """Largest γ with L_n + … + L_{n+γ-1} ≤ tokens (γ ≥ 1): late stages are most of all tokens."""
    gamma = 1
    while gamma < context.room and context.pyramid.count(context.stage, context.stage + gamma + 1) <= g.tokens:
        gamma += 1
    return gamma, f"{context.pyramid.count(context.stage, context.stage + gamma)} tokens"
