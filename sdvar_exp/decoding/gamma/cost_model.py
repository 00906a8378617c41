"""γ that maximises expected committed stages per second, from a profile file."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdvar_exp.decoding.gamma import GammaContext
from sdvar_exp.errors import UserError, require
from sdvar_exp.registry import register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell

PROFILES = Path(__file__).with_name("profiles")
COSTS = ("target_call", "draft_call", "target_row", "draft_row")


@dataclass(frozen=True)
class CostModel:
    """profile: `generic`, `embedded` or a JSON file with costs and pass rates (docs/cost-model.md); largest: bound of γ.

    digest: start of the SHA-256 of the file, filled in by itself, so that the cell id changes with the profile's content.
    """

    profile: str = "generic"
    largest: int = 10
    digest: str = ""

    def __post_init__(self) -> None:
        require(self.largest >= 1, f"gamma.largest must be ≥ 1, got {self.largest}")
        found = digest_of(locate(self.profile).read_bytes())
        require(
            self.digest in ("", found),
            f"gamma.profile {self.profile} has changed since its digest {self.digest} was "
            f"noted, now it is {found}: leave gamma.digest out for the new file",
        )
        object.__setattr__(self, "digest", found)
        read(self.profile, found)


def digest_of(content: bytes) -> str:
    """16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def locate(profile: str) -> Path:
    """The profile's file: a shipped name or a path."""
    path = PROFILES / f"{profile}.json" if "/" not in profile and not profile.endswith(".json") else Path(profile)
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in PROFILES.glob("*.json")))
        raise UserError(f"gamma.profile {profile} is not a file; give a path to a JSON file or a shipped profile: {shipped}")
    return path


@lru_cache(maxsize=32)
def read(profile: str, digest: str) -> dict[str, Any]:
    """A checked profile, as it was when its digest was taken.

    Keys: `target_call`, `draft_call` (fixed cost of a forward), `target_row`, `draft_row` (cost of a row), in one unit of
    time; `pass_rate`: chance that a proposed stage passes, per stage (the last value holds for later ones); `stages`, if the
    profile is for pyramids of so many stages only, with as many pass rates; `note`.
    """
    where, content = f"gamma.profile {profile}", locate(profile).read_bytes()
    require(digest_of(content) == digest, f"{where} was changed while it was in use: start again")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8
        raise UserError(f"{where} is not JSON: {error}") from None
    require(isinstance(data, dict), f"{where} must be a JSON object with {', '.join(COSTS)} and pass_rate")
    known = (*COSTS, "pass_rate", "stages", "note")
    unknown = sorted(set(data) - set(known))
    require(not unknown, f"{where} has unknown keys: {', '.join(unknown)}; it takes {', '.join(known)}")
    for key in COSTS:
        require(key in data, f"{where} lacks {key}")
        require(_number(data[key]) and data[key] >= 0, f"{where}: {key} must be a number ≥ 0, got {data[key]!r}")
    require(data["target_call"] + data["target_row"] > 0, f"{where}: target_call and target_row must not both be 0")
    rates, stages = data.get("pass_rate"), data.get("stages")
    good = isinstance(rates, list) and rates and all(_number(r) and 0 <= r <= 1 for r in rates)
    require(bool(good), f"{where}: pass_rate must be a list of numbers in [0, 1], got {rates!r}")
    if stages is not None:
        require(stages == len(rates), f"{where}: {stages} stages need as many pass rates, got {len(rates)}")
    return dict(data)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check(cell: Cell, stages: int) -> None:
    """Raise `UserError` if the profile is for other pyramids."""
    assert cell.gamma is not None
    g = cell.gamma.params
    wanted = read(g.profile, g.digest).get("stages", stages)
    require(wanted == stages, f"gamma.profile {g.profile} is for {wanted} stages, this model has {stages}: use another profile")


@register("gamma", "cost_model", CostModel, check=check)
def cost_model(g: CostModel, context: GammaContext) -> tuple[int, str]:
    """argmax over γ of E / (γ draft stages + one merged verify), E = Σ_{i<γ} Π_{j<i} pass rate of stage n+j."""
    p = read(g.profile, g.digest)
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
