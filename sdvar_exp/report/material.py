"""The material of figures, and how one says that it cannot be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from sdvar_exp.metrics.quantities import headline
from sdvar_exp.report.classes import Classes
from sdvar_exp.report.sizes import Size
from sdvar_exp.report.soundness import front
from sdvar_exp.report.source import Tables, numbers, pareto
from sdvar_exp.words import span


class Skipped(Exception):
    """A figure is not drawn; the text says why."""


@dataclass(frozen=True)
class Material:
    """tables: of a study. summary: of `summarise`, with a column `number` from 1 on. images: folder of the picture files.

    quality: of `quality_table`, empty where it was not made. profile: a cost profile, or None to fit one. every: figures of
    many panels draw all cells, not the most telling ones. classes: names of labels. made: study, commit and hardware, for the
    line below each figure.
    """

    tables: Tables
    summary: pd.DataFrame
    images: Path
    size: Size = field(default_factory=Size)
    quality: pd.DataFrame = field(default_factory=pd.DataFrame)
    profile: str | None = None
    every: bool = False
    classes: Classes = field(default_factory=Classes)
    made: str = ""

    def telling(self, cells: Sequence[str], most: int) -> list[str]:
        """At most so many of the cells, in their order, unless `every` is set.

        First those of the front (speed-up, or fewest target token-forwards where nothing is timed, against pixel difference),
        then others evenly spread over the ranks of their pixel difference, both ends included.
        """
        if self.every or len(cells) <= most:
            return list(cells)
        own = self.summary[self.summary["cell"].isin(set(cells))].reset_index(drop=True)
        loss = numbers(own[headline("difference").name])
        timed = own[headline("speed").name].notna().any()
        on = front(own) if timed else pareto(-numbers(own["target_token_forwards"]).to_numpy(), loss.to_numpy())
        chosen = spread(own.index[on].tolist(), most)
        rest = [i for i in loss.sort_values(kind="stable").index if i not in set(chosen)]
        chosen = [*chosen, *spread(rest, most - len(chosen))]
        return list(own.loc[sorted(chosen), "cell"])


def spread(places: Sequence[int], most: int) -> list[int]:
    """At most so many of the places, evenly, both ends included."""
    if most <= 0:
        return []
    if len(places) <= most:
        return list(places)
    return [places[i] for i in dict.fromkeys(np.linspace(0, len(places) - 1, most).round().astype(int).tolist())]


def left_out(shown: int, of: int, what: str = "cells") -> str:
    """A sentence that says what a figure leaves out; empty where it is nothing."""
    if shown >= of:
        return ""
    return f" Shown: {shown} of {of} {what}, the front, others spread over pixel difference; `figures --all` draws all."


def images_of(counts: pd.Series, what: str = "images a cell") -> str:
    """`n = 24 images a cell` or `n = 8 to 24 images a cell`."""
    known = counts.dropna().astype(int)
    return f"n = {span(known) if len(known) else 0} {what}"
