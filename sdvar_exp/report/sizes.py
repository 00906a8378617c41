"""Widths and type sizes of venues, from tueplots, without LaTeX: serif venues get STIX, which comes with matplotlib."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sdvar_exp.errors import UserError
from sdvar_exp.words import choices_text, did_you_mean

# venue -> name in tueplots.figsizes and tueplots.fontsizes, and whether its text has serifs
VENUES = {
    "aaai": ("aaai2024", True),
    "aistats": ("aistats2025", True),
    "beamer": ("beamer_169", False),
    "colm": ("colm2026", True),
    "cvpr": ("cvpr2024", True),
    "eccv": ("eccv2024", True),
    "iclr": ("iclr2024", True),
    "icml": ("icml2024", True),
    "jmlr": ("jmlr2001", True),
    "neurips": ("neurips2024", True),
    "tmlr": ("tmlr2023", True),
    "uai": ("uai2023", True),
}
SIZES = ("axes.labelsize", "axes.titlesize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize")


@dataclass(frozen=True)
class Size:
    """Inches: `full` across the text, `column` for a figure of one panel. rc: type sizes and fonts of the venue."""

    venue: str | None = None
    full: float = 7.0
    column: float = 4.2
    rc: dict[str, Any] = field(default_factory=dict)


def size_of(venue: str | None) -> Size:
    """The size of a venue, or of a page of one's own; `UserError` for an unknown one."""
    if venue is None:
        return Size()
    if venue not in VENUES:
        raise UserError(f"unknown venue {venue!r}{did_you_mean(venue, VENUES, choices_text(VENUES, 'use'))}")
    from tueplots import figsizes, fontsizes

    name, serif = VENUES[venue]
    full = _width(getattr(figsizes, f"{name}_full", None) or getattr(figsizes, name))
    half = getattr(figsizes, f"{name}_half", None)
    column = _width(half) if half else min(max(0.62 * full, 3.2), 3.6)
    rc: dict[str, Any] = {}
    if (found := getattr(fontsizes, name, None)) is not None:
        given = found()
        rc = {key: min(float(given[key]), 8.0) for key in SIZES if key in given}
    if serif:
        rc |= {"font.family": ["STIXGeneral", "DejaVu Sans"], "mathtext.fontset": "stix"}
    return Size(venue, full, column, rc)


def _width(figsize: Any) -> float:
    return float(figsize()["figure.figsize"][0])
