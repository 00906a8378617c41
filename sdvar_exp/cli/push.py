"""`sdvar-exp push`: send studies to W&B."""

from __future__ import annotations

from sdvar_exp.tracking.command import main as push


def main(argv: list[str]) -> int:
    return push(argv)
