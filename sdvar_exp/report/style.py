"""How figures look and how they are saved: colour-blind-safe, embedded fonts, equal bytes for equal data.

No global state of matplotlib is changed and no window is opened: figures are plain `Figure` objects.
"""

from __future__ import annotations

import hashlib
import logging
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from sdvar_exp.store.files import atomic_write

WIDTH = 5.5
"""Inches: the text width of the usual one-column venues."""

INK = "#222222"
MUTED = "#6b6b6b"
GRID = "#dddddd"

# Okabe and Ito, "Color universal design", 2008, without yellow, which is too light for lines on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
STRATEGIES = ("parallel_v1", "dynamic_gamma", "test3", "hybrid", "collaborative", "draft_only", "sequential")

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType, embedded: journals refuse type 3
    "svg.hashsalt": "sdvar_exp",
    "image.composite_image": False,  # pictures enter a PDF with their own pixels
    "savefig.dpi": 200,
    "figure.dpi": 200,
}


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's own defaults and `RC`, whatever the user's matplotlibrc says; fontTools keeps its details quiet."""
    fonts = logging.getLogger("fontTools")
    level = fonts.level
    fonts.setLevel(logging.WARNING)
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(RC)
            yield
    finally:
        fonts.setLevel(level)


@dataclass(frozen=True)
class Drawn:
    """A figure, the name of its files and the hash of the data that it shows."""

    name: str
    title: str
    figure: Figure
    data_hash: str


def save(drawn: Drawn, folder: Path, command: str) -> list[Path]:
    """Write `<name>.pdf` and `<name>.png`, with data hash and command but without dates in their metadata."""
    subject = f"data sha256 {drawn.data_hash}"
    info = {"Title": drawn.title, "Subject": subject, "Keywords": command, "Creator": "sdvar_exp", "CreationDate": None}
    chunks = {"Title": drawn.title, "Description": subject, "Comment": command, "Software": None}
    paths = []
    for kind, metadata in (("pdf", info), ("png", chunks)):
        buffer = BytesIO()
        drawn.figure.savefig(buffer, format=kind, metadata=metadata)
        paths.append(folder / f"{drawn.name}.{kind}")
        atomic_write(paths[-1], buffer.getvalue())
    return paths


def data_hash(frame: pd.DataFrame, *files: Path) -> str:
    """SHA-256 of a table's values, nine digits each, and of the bytes of files."""
    digest = hashlib.sha256(frame.to_csv(index=False, float_format="%.9g", lineterminator="\n").encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def look(strategies: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each strategy: the same in every figure for known ones, the next free ones for others."""
    extra = [s for s in dict.fromkeys(strategies) if s not in STRATEGIES]
    order = [*STRATEGIES, *extra]
    colours, markers = len(PALETTE), len(MARKERS)
    return {s: (PALETTE[i % colours], MARKERS[(i + i // colours) % markers]) for i, s in enumerate(order)}


def wrapped(text: str, width: int, lines: int = 3) -> str:
    """Text in at most `lines` lines of `width` characters; an ellipsis marks what was cut."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
