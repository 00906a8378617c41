"""The guidance schedules: functions (parameters, stage k, S) → t_k."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sdvar_exp.errors import require
from sdvar_exp.registry import register


def _depth(stage: int, stages: int) -> float:
    """Relative depth k/(S-1) of a stage in [0, 1]."""
    return stage / (stages - 1) if stages > 1 else 0.0


def _check_cfg(cfg: float) -> None:
    require(cfg >= 0 and math.isfinite(cfg), f"cfg_schedule.cfg must be ≥ 0, got {cfg}")


@dataclass(frozen=True)
class Strength:
    """cfg: guidance strength, 1.5 in VAR's examples."""

    cfg: float = 1.5

    def __post_init__(self) -> None:
        _check_cfg(self.cfg)


@register("cfg_schedule", "linear", Strength)
def linear(s: Strength, stage: int, stages: int) -> float:
    """t_k = cfg·k/(S-1), the official schedule (VAR, arXiv 2404.02905)."""
    return s.cfg * _depth(stage, stages)


@register("cfg_schedule", "constant", Strength)
def constant(s: Strength, stage: int, stages: int) -> float:
    """t_k = cfg at every stage."""
    return s.cfg


@register("cfg_schedule", "cosine", Strength)
def cosine(s: Strength, stage: int, stages: int) -> float:
    """t_k = cfg·(1 - cos(π·k/(S-1)))/2: slow at both ends."""
    return s.cfg * (1 - math.cos(math.pi * _depth(stage, stages))) / 2


@dataclass(frozen=True)
class Power:
    """cfg: guidance strength; exponent: 1 is linear, above 1 guides late."""

    cfg: float = 1.5
    exponent: float = 2.0

    def __post_init__(self) -> None:
        _check_cfg(self.cfg)
        require(self.exponent > 0, f"cfg_schedule.exponent must be > 0, got {self.exponent}")


@register("cfg_schedule", "power", Power)
def power(s: Power, stage: int, stages: int) -> float:
    """t_k = cfg·(k/(S-1))^exponent."""
    return s.cfg * math.pow(_depth(stage, stages), s.exponent)


@dataclass(frozen=True)
class Interval:
    """cfg: guidance strength; first, last: the stages that are guided, both included."""

    cfg: float = 1.5
    first: int = 1
    last: int = 5

    def __post_init__(self) -> None:
        _check_cfg(self.cfg)
        require(0 <= self.first <= self.last, f"cfg_schedule needs 0 ≤ first ≤ last, got first={self.first}, last={self.last}")


@register("cfg_schedule", "interval", Interval)
def interval(s: Interval, stage: int, stages: int) -> float:
    """t_k = cfg for first ≤ k ≤ last, else 0 (after Kynkäänniemi et al., arXiv 2404.07724)."""
    return s.cfg if s.first <= stage <= s.last else 0.0


@register("cfg_schedule", "off")
def off(_: object, stage: int, stages: int) -> float:
    """t_k = 0: no guidance, the batch is never doubled."""
    return 0.0
