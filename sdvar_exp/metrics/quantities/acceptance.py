"""Acceptance under the names that vLLM, AIPerf and llama.cpp use, with stages in the place of tokens.

Σ runs over images: the metric of a cell is that of its sums. A round that proposes nothing (γ = 0) counts in none.
"""

from __future__ import annotations

from sdvar_exp.metrics.quantities.recorded import COUNT, Column
from sdvar_exp.registry import register


@register(
    "metric",
    "mean_acceptance_length",
    heading="acceptance length",
    digits=2,
    range=COUNT,
    better=1,
    average="pooled",
    shown="wide",
    interval=False,
    formula="Σ `round_commits` ÷ Σ `rounds`: the corrected or bonus stage counts, as in vLLM's mean acceptance length",
    unit="stages a round; null without rounds",
)
def mean_acceptance_length(round_commits: Column, rounds: Column) -> Column:
    """Stages committed per draft-verify round, the target's own stage included."""
    return round_commits / rounds


@register(
    "metric",
    "mean_accepted_length",
    heading="accepted stages a round",
    digits=2,
    range=COUNT,
    better=1,
    average="pooled",
    shown="summary",
    interval=False,
    formula="Σ `accepted_stages` ÷ Σ `rounds`: the same without the corrected or bonus stage",
    unit="stages a round; null without rounds",
)
def mean_accepted_length(accepted_stages: Column, rounds: Column) -> Column:
    """Proposed stages that passed and were committed, per draft-verify round."""
    return accepted_stages / rounds


@register(
    "metric",
    "draft_acceptance_rate",
    heading="draft acceptance rate",
    digits=2,
    range=(0, 1),
    better=1,
    average="pooled",
    shown="summary",
    interval=False,
    formula="Σ `accepted_stages` ÷ Σ `proposed_stages`: vLLM's draft acceptance rate, llama.cpp's accept",
    unit="[0, 1]; null without rounds",
)
def draft_acceptance_rate(accepted_stages: Column, proposed_stages: Column) -> Column:
    """Share of proposed stages that passed and were committed."""
    return accepted_stages / proposed_stages
