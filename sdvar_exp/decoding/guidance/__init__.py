"""Guidance schedules: the weight t_k of each stage in ℓ = (1+t_k)·ℓ_cond - t_k·ℓ_uncond. No torch."""

from __future__ import annotations

from dataclasses import replace

from sdvar_exp.registry import Choice


def weights(schedule: Choice, stages: int) -> tuple[float, ...]:
    """t_0 … t_{S-1} of a schedule."""
    return tuple(float(schedule.entry.function(schedule.params, k, stages)) for k in range(stages))


def proposal_weights(schedule: Choice, stages: int, strength: float | str) -> tuple[float, ...]:
    """t_k of proposals: the cell's schedule (`same`), none (`off`), or the same schedule at another strength."""
    if strength == "off":
        return (0.0,) * stages
    return weights(schedule if strength == "same" else replace(schedule, params=replace(schedule.params, cfg=strength)), stages)
