"""Guidance schedules: the weight t_k of each stage in ℓ = (1+t_k)·ℓ_cond - t_k·ℓ_uncond (DESIGN 2.7). No torch."""

from __future__ import annotations

from sdvar_exp.registry import Choice


def weights(schedule: Choice, stages: int) -> tuple[float, ...]:
    """t_0 … t_{S-1} of a schedule."""
    return tuple(float(schedule.entry.function(schedule.params, k, stages)) for k in range(stages))
