"""Results of checks, and how two tensors are compared stage by stage; NaN counts as a difference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch


class Wrong(Exception):
    """Raised by a check with a sentence that names role, stage and tensor, and gives the numbers."""


class NotChecked(Exception):
    """Raised by a check that cannot be made of what is there, with the reason."""


@dataclass(frozen=True)
class Result:
    """test_name: area and what was looked at. message: what was found, in words. area: one of `check.AREAS`.

    checked: False where too few stages are looked at to say anything; such a result has not failed, and shows nothing.
    """

    test_name: str
    passed: bool
    message: str
    area: str
    checked: bool = True


def largest(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest absolute difference; infinite where shapes differ or a value is not a number."""
    if got.shape != want.shape:
        return float("inf")
    if got.numel() == 0:
        return 0.0
    found = (got.double() - want.double()).abs().max().item()
    return found if found == found else float("inf")


def bound(want: torch.Tensor, limit: float) -> float:
    """The difference that rounding may make: `limit`, relative to the largest value where that is above 1."""
    return limit * max(1.0, want.double().abs().max().item() if want.numel() else 1.0)


@dataclass(frozen=True)
class Off:
    """The first stage that differs: by how much, where, and what was allowed."""

    stage: int
    difference: float
    allowed: float
    got: torch.Tensor
    want: torch.Tensor

    def __str__(self) -> str:
        if self.got.shape != self.want.shape:
            return f"shape {tuple(self.got.shape)} instead of {tuple(self.want.shape)}"
        if not self.got.isfinite().all():
            bad = int((~self.got.isfinite()).sum())
            return f"{bad} of {self.got.numel()} values are NaN or infinite"
        return f"largest difference {self.difference:.3g}, rounding explains {self.allowed:.1g}"


def first_off(triples: Iterable[tuple[int, torch.Tensor, torch.Tensor]], limit: float) -> tuple[Off | None, float]:
    """The first of (stage, got, wanted) that differs by more than rounding, and the largest difference up to it."""
    worst = 0.0
    for stage, got, want in triples:
        difference, allowed = largest(got, want), bound(want, limit)
        if not difference <= allowed:
            return Off(stage, difference, allowed, got, want), difference
        worst = max(worst, difference)
    return None, worst
