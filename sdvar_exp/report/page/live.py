"""The page of a study that is still running: how far it is, what has not begun, and two figures from what there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdvar_exp.report.figures import draw_figures, material_of
from sdvar_exp.report.page.figures import Shown
from sdvar_exp.report.page.pictures import data_url
from sdvar_exp.report.style import Drawn, dark, rendered

FIGURES = ("speedup-vs-pixel-difference", "target-calls-and-token-forwards")
"""Figures of a page that is written again and again; the run itself draws all of them, at its end."""
PIXELS = 200
"""Per inch."""


@dataclass(frozen=True)
class Live:
    """done, planned: steps of the study, images and timings together. says: how far it is, in words. waiting: names of the
    cells that have not begun. every: seconds until the page is read again.
    """

    done: int
    planned: int
    says: str
    waiting: tuple[str, ...]
    every: float


def fresh(folder: Path) -> list[Shown]:
    """`FIGURES` of what the ledger has, as far as they can be drawn; nothing is written."""
    shown = []
    for _, drawn in draw_figures(material_of(folder), FIGURES):
        if isinstance(drawn, Drawn):
            url = data_url(dark(rendered(drawn, "svg", "sdvar-exp report --watch")), "svg+xml")
            width, height = (round(PIXELS * inches) for inches in drawn.figure.get_size_inches())
            shown.append(Shown(drawn.title, drawn.caption, url, (width, height), {}))
    return shown
