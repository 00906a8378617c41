"""γ that maximises expected committed stages per second, from a profile file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdvar_exp.decoding.gamma import GammaContext
from sdvar_exp.errors import UserError, require
from sdvar_exp.registry import register

PROFILES = Path(__file__).with_name("profiles")


@dataclass(frozen=True)
class CostModel:
    """profile: `generic` or a JSON file with stage costs and pass rates (docs/reference); largest: bound of γ.

    digest: SHA-256 of the file, filled in by itself, so that the cell id changes with the profile's content.
    """

    profile: str = "generic"
    largest: int = 10
    digest: str = ""

    def __post_init__(self) -> None:
        require(self.largest >= 1, f"gamma.largest must be ≥ 1, got {self.largest}")
        found = hashlib.sha256(locate(self.profile).read_bytes()).hexdigest()[:16]
        require(self.digest in ("", found), f"gamma.profile {self.profile} has changed: its digest is {found}")
        object.__setattr__(self, "digest", found)
        read(self.profile)


def locate(profile: str) -> Path:
    """The profile's file: a shipped name or a path."""
    path = PROFILES / f"{profile}.json" if "/" not in profile and not profile.endswith(".json") else Path(profile)
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in PROFILES.glob("*.json")))
        raise UserError(f"gamma.profile {profile} is not a file; shipped profiles: {shipped}")
    return path


@lru_cache(maxsize=32)
def read(profile: str) -> dict[str, Any]:
    """A checked profile.

    Keys: `target_call`, `draft_call` (fixed cost of a forward), `target_row`, `draft_row` (cost of a row), in one unit of
    time; `pass_rate`: chance that a proposed stage passes, per stage (the last value holds for later ones).
    """
    try:
        data = json.loads(locate(profile).read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"gamma.profile {profile} is not JSON: {error}") from None
    for key in ("target_call", "draft_call", "target_row", "draft_row"):
        value = data.get(key)
        require(isinstance(value, int | float) and value >= 0, f"gamma.profile {profile}: {key} must be a number ≥ 0")
    rates = data.get("pass_rate")
    good = isinstance(rates, list) and rates and all(isinstance(r, int | float) and 0 <= r <= 1 for r in rates)
    require(bool(good), f"gamma.profile {profile}: pass_rate must be a list of numbers in [0, 1]")
    return data


@register("gamma", "cost_model", CostModel)
def cost_model(g: CostModel, context: GammaContext) -> tuple[int, str]:
    """argmax over γ of E[committed stages] / (Σ draft stage costs + one merged verify), DESIGN 7 (without a bonus)."""
    p = read(g.profile)
    rates, best, best_rate = p["pass_rate"], 1, -1.0
    drafting, chance, expected = 0.0, 1.0, 0.0
    for gamma in range(1, min(context.room, g.largest) + 1):
        stage = context.stage + gamma - 1
        drafting += p["draft_call"] + p["draft_row"] * context.pyramid.lengths[stage]
        expected += chance  # the stage is committed if all before it passed, passed or corrected
        chance *= rates[min(stage, len(rates) - 1)]
        rows = context.pyramid.count(context.stage, stage + 1)
        rate = expected / (drafting + p["target_call"] + p["target_row"] * rows)
        if rate > best_rate:
            best, best_rate = gamma, rate
    return best, f"{best_rate:.4g} stages per unit of time"
