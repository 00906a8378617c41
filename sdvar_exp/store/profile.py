"""Cost profiles (docs/cost-model.md), for reports that compare predicted with measured times."""

from __future__ import annotations

from typing import Any


def read_profile(profile: str) -> dict[str, Any]:
    """A checked profile: a shipped name or the path of a JSON file. Raises `UserError` for a bad one."""
    from sdvar_exp.decoding.gamma.cost_model import digest_of, locate, read

    return read(profile, digest_of(locate(profile).read_bytes()))
