"""Look of the figures, and saving them: colour-blind-safe, embedded fonts, equal bytes for equal data.

No global state of matplotlib is changed and no window is opened: figures are plain `Figure` objects.
"""

from __future__ import annotations

import hashlib
import logging
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from sdvar_exp.store.files import atomic_write

INK = "#222222"
MUTED = "#6b6b6b"
GRID = "#dddddd"
UNSOUND = "#a4a4a4"
"""Times that were shown not to be sound."""

# Okabe and Ito, "Color universal design", 2008, without yellow, which is too light for lines on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ON_DARK, ON_LIGHT = "#fdfdfd", "#202020"
"""Ink on a coloured field, which is the same on light and dark paper."""
DARK = {
    "#ffffff": "#14171b",
    INK: "#e6e9ed",
    MUTED: "#a0a9b4",
    GRID: "#343b44",
    "#eeeeee": "#262b31",
    "#888888": "#7d8793",
    "#000000": "#f4f6f8",
    "#0072b2": "#3d94dc",
    "#d55e00": "#f0812e",
    "#009e73": "#25b98d",
}
"""Colours on dark paper, by those on white; others are legible on both."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
STRATEGIES = ("parallel_v1", "dynamic_gamma", "test3", "hybrid", "collaborative", "draft_only", "sequential")

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "text.color": INK,
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
    "svg.fonttype": "path",  # looks the same where the font is not installed
    "image.composite_image": False,  # pictures enter a PDF with their own pixels
    "savefig.dpi": 200,
    "figure.dpi": 200,
}


@contextmanager
def styled(rc: Mapping[str, Any] | None = None) -> Iterator[None]:
    """matplotlib's own defaults, `RC` and `rc`, whatever the user's matplotlibrc says; fontTools keeps its details quiet."""
    fonts = logging.getLogger("fontTools")
    level = fonts.level
    fonts.setLevel(logging.WARNING)
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({**RC, **dict[Any, Any](rc or {})})
            yield
    finally:
        fonts.setLevel(level)


@dataclass(frozen=True)
class Drawn:
    """A figure, the name of its files and the hash of the data that it shows.

    caption: what a reader must know, with n. made: study, commit and hardware, written small below the figure.
    """

    name: str
    title: str
    figure: Figure
    data_hash: str
    caption: str = ""
    made: str = ""


FOOT = 0.13
"""Inches below a figure for the line that says how it was made."""


def save(drawn: Drawn, folder: Path, command: str) -> list[Path]:
    """Write `<name>.pdf`, `.png` and `.svg`, with data hash and command but without dates in their metadata.

    All are rendered before the first is written.
    """
    files = {folder / f"{drawn.name}.{kind}": rendered(drawn, kind, command) for kind in KINDS}
    for path, content in files.items():
        atomic_write(path, content)
    return list(files)


KINDS = ("pdf", "png", "svg")


def rendered(drawn: Drawn, kind: str, command: str) -> bytes:
    """The bytes of a figure's file."""
    subject = f"data sha256 {drawn.data_hash}"
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"Title": drawn.title, "Subject": subject, "Keywords": command, "Creator": "sdvar_exp", "CreationDate": None},
        "png": {"Title": drawn.title, "Description": subject, "Comment": command, "Software": None},
        "svg": {"Title": drawn.title, "Description": subject, "Keywords": [command], "Creator": "sdvar_exp", "Date": None},
    }
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # it is drawn as a box
        drawn.figure.savefig(buffer, format=kind, metadata=metadata[kind], bbox_inches=_with_foot(drawn))
    return buffer.getvalue()


def _with_foot(drawn: Drawn) -> Bbox | None:
    """The figure's area with room for `made` below, where it is written once; None where it says nothing."""
    figure = drawn.figure
    if not drawn.made:
        return None
    if not any(text.get_gid() == "made" for text in figure.texts):
        width = int(figure.get_figwidth() / 0.036)
        text = textwrap.shorten(drawn.made, width, placeholder=" …")
        across, tall = figure.get_size_inches()  # in shares of the figure, which alone move with the area that is saved
        below = figure.text(0.05 / across, -0.02 / tall, text, gid="made", va="top", fontsize=4.8, color=MUTED)
        below.set_in_layout(False)
    return Bbox.from_extents(0, -FOOT, *figure.get_size_inches())


def dark(svg: bytes) -> bytes:
    """The picture with a style of its own for readers who prefer dark: the same lines in `DARK`, images untouched."""
    rules = [f'[style*="{kind}: {old}"]{{{kind}:{new}!important}}' for old, new in DARK.items() for kind in ("fill", "stroke")]
    rules.append(f"svg{{fill:{DARK['#000000']}}}")  # black is what matplotlib leaves unsaid
    style = f"<style>@media (prefers-color-scheme: dark){{{''.join(rules)}}}</style>"
    head = re.search(rb"<svg\b[^>]*>", svg)
    return svg if head is None else svg[: head.end()] + style.encode() + svg[head.end() :]


def beside(axis: Axes, y: float, text: str) -> None:
    """A row's number at the right of its axis, in a column with those of other rows, clear of bars and whiskers."""
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (27, 0), "textcoords": "offset points"}
    axis.annotate(text, (1, y), ha="right", va="center", fontsize=6.5, annotation_clip=False, **place)


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


def strategy_legend(strategies: Sequence[str]) -> list[Line2D]:
    """One mark per strategy, for a legend."""
    styles = look(strategies)
    return [Line2D([], [], color=styles[s][0], marker=styles[s][1], ls="", ms=4.5, label=s) for s in dict.fromkeys(strategies)]


def name_column(names: Sequence[str], least: float = 0.8, most: float = 2.45) -> float:
    """Inches that names in a column of type 6.5 take, between `least` and `most`."""
    return min(max(0.052 * max(map(len, names), default=0) + 0.16, least), most)


def wrapped(text: str, width: int, lines: int = 3) -> str:
    """Text in at most `lines` lines of `width` characters; an ellipsis marks what was cut."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
