"""What figures are made from, and how one says that it cannot be made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from sdvar_exp.report.sizes import Size
from sdvar_exp.report.source import Tables


class Skipped(Exception):
    """A figure is not drawn; the text says why."""


@dataclass(frozen=True)
class Material:
    """tables: of a study. summary: of `summarise`, with a column `number` from 1 on. images: folder of the picture files.

    quality: of `quality_table`, empty where it was not made. profile: a cost profile, or None to fit one.
    """

    tables: Tables
    summary: pd.DataFrame
    images: Path
    size: Size = field(default_factory=Size)
    quality: pd.DataFrame = field(default_factory=pd.DataFrame)
    profile: str | None = None


def images_of(counts: pd.Series, what: str = "images a cell") -> str:
    """`n = 24 images a cell` or `n = 8 to 24 images a cell`."""
    numbers = sorted(set(counts.dropna().astype(int)))
    if not numbers:
        return f"n = 0 {what}"
    return f"n = {numbers[0]} {what}" if len(numbers) == 1 else f"n = {numbers[0]} to {numbers[-1]} {what}"
