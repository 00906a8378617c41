"""Pictures inside the page: thumbnails of every unit as one sprite per cell, full images of the worst, median and best.

Everything has a budget, in characters of the file, so that a page stays small however large the study: thumbnails get
smaller, then fewer; full images become WebP, then stay beside the page, where it finds them by a relative link.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from sdvar_exp.metrics.quantities import Metric, headline, metrics
from sdvar_exp.report.material import spread
from sdvar_exp.report.page.markup import part
from sdvar_exp.report.source import Tables, of_cell
from sdvar_exp.store.images import image_name

SPRITES, FULL = 10_000_000, 7_000_000
TILES = (64, 48, 32, 24, 16)
COLUMNS = 16
MOST_UNITS = 20_000
PICKS = ("worst", "median", "best")


@dataclass(frozen=True)
class Galleries:
    """data: one entry per cell, for the scripts. pictures: data URLs by key. shown, there: units with a thumbnail, and with
    a picture at all."""

    data: list[dict[str, Any]]
    pictures: dict[str, str]
    shown: int
    there: int


def facts() -> list[Metric]:
    """Metrics that stand beside an image: those computed with the row."""
    return [m for m in metrics() if m.measured and m.shown in ("everywhere", "image")]


def collect(folder: Path, tables: Tables, summary: pd.DataFrame) -> Galleries:
    """Thumbnails and full images of a study's picture files."""
    units = {row["cell"]: _units(folder, tables, row["cell"]) for row in summary.to_dict("records")}
    there = sum(map(len, units.values()))
    most = max(9, MOST_UNITS // max(len(units), 1))
    chosen = {cell: _spread(frame, most) for cell, frame in units.items()}
    picks = {cell: _picks(frame) for cell, frame in chosen.items()}
    sprites, tile = _sprites(folder, chosen)
    if sprites is None:  # too many for the smallest tiles: as many as fit, the picks always among them
        fewer = max(9, most // 8)
        chosen = {cell: _spread(frame, fewer) for cell, frame in chosen.items()}
        picks = {cell: _picks(frame) for cell, frame in chosen.items()}
        sprites, tile = _sprites(folder, chosen)
    full = _full(folder, summary, chosen, picks)
    data = []
    for row in summary.to_dict("records"):
        frame, cell = chosen[row["cell"]], row["cell"]
        entry = {
            "id": cell,
            "number": int(row["number"]),
            "name": str(row["name"]),
            "baseline": str(row["baseline"]),
            "tile": tile,
            "columns": COLUMNS,
            "all": len(units[cell]),
            "picks": picks[cell],
        }
        values = {name: _plain(frame[name]) for name in ("label", "seed", *(m.name for m in facts())) if name in frame}
        data.append({**entry, "units": values})
    return Galleries(data, (sprites or {}) | full, sum(map(len, chosen.values())), there)


def note(galleries: Galleries) -> str:
    """One sentence about the pictures that there are."""
    return part("images", shown=galleries.shown, there=galleries.there)


def data_url(content: bytes, kind: str) -> str:
    """`data:` URL of a picture."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def webp(image: Image.Image, quality: int) -> bytes:
    """The picture as lossy WebP, no larger than the format allows."""
    buffer = BytesIO()
    if max(image.size) > 16_000:
        image = image.copy()
        image.thumbnail((16_000, 16_000))
    image.convert("RGB").save(buffer, "webp", quality=quality, method=4)
    return buffer.getvalue()


def fit(paths: Sequence[tuple[str, Path]], budget: int) -> dict[str, str]:
    """Data URLs by key: PNG as on disk if all fit, else WebP, else as many as fit, in order."""
    small = sum(path.stat().st_size for _, path in paths) * 4 // 3 <= budget
    out: dict[str, str] = {}
    for key, path in paths:
        url = data_url(path.read_bytes(), "png") if small else _smaller(path)
        if len(url) > budget:
            break
        budget -= len(url)
        out[key] = url
    return out


def _smaller(path: Path) -> str:
    """A picture file as WebP; as it is where it cannot be read."""
    try:
        with Image.open(path) as image:
            return data_url(webp(image, 88), "webp")
    except OSError:
        return data_url(path.read_bytes(), "png")


def _units(folder: Path, tables: Tables, cell: str) -> pd.DataFrame:
    """Rows of a cell whose picture is on disk, by label and seed."""
    rows = of_cell(tables.samples, cell)
    if rows.empty or not (folder / cell).is_dir():
        return rows.iloc[:0]
    names = {path.name for path in (folder / cell).iterdir()}
    keep = [image_name(label, seed) in names for label, seed in zip(rows["label"], rows["seed"], strict=True)]
    return rows[keep].sort_values(["label", "seed"]).reset_index(drop=True)


def _spread(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many units, evenly over the ranks of their pixel difference, both ends included."""
    if len(frame) <= most:
        return frame
    return frame.iloc[np.sort(_by_difference(frame)[spread(range(len(frame)), most)])].reset_index(drop=True)


def _picks(frame: pd.DataFrame) -> dict[str, int]:
    """Places of the worst, the median and the best unit."""
    if frame.empty:
        return {}
    order = _by_difference(frame)
    return dict(zip(PICKS, (int(order[i]) for i in (-1, len(order) // 2, 0)), strict=True))


def _by_difference(frame: pd.DataFrame) -> np.ndarray:
    """Places from the smallest pixel difference to the largest; equal ones keep their order."""
    return np.argsort(pd.to_numeric(frame[headline("difference").name]).fillna(0).to_numpy(float), kind="stable")


def _sprites(folder: Path, chosen: dict[str, pd.DataFrame]) -> tuple[dict[str, str] | None, int]:
    """Sprites by key and the side of their tiles: the largest that fit the budget; None where none do."""
    sides = [_side(folder / cell / image_name(f["label"][0], f["seed"][0])) for cell, f in chosen.items() if len(f)]
    largest = min(max(sides, default=TILES[0]), TILES[0])
    for tile in dict.fromkeys(min(t, largest) for t in TILES):
        out, left = {}, SPRITES
        for key, place, frame in _kinds(folder, chosen):
            out[key] = data_url(webp(_sprite(place, frame, tile), 82), "webp")
            left -= len(out[key])
            if left < 0:
                break
        if left >= 0:
            return out, tile
    return None, TILES[-1]


def _kinds(folder: Path, chosen: dict[str, pd.DataFrame]) -> Iterator[tuple[str, partial[Path], pd.DataFrame]]:
    for cell, frame in chosen.items():
        for suffix in ("", "_diff") if len(frame) else ():
            place = partial(_place, folder / cell, suffix)
            if any(place(u.label, u.seed).is_file() for u in frame.itertuples()):
                yield f"sprite/{cell}{suffix}", place, frame


def _place(folder: Path, suffix: str, label: int, seed: int) -> Path:
    return folder / image_name(label, seed, suffix)


def _side(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return max(image.size)
    except OSError:
        return 1


def _sprite(place: partial[Path], frame: pd.DataFrame, tile: int) -> Image.Image:
    """All units of a cell in rows of `COLUMNS` tiles; grey where a file is missing or cannot be read."""
    sheet = Image.new("RGB", (COLUMNS * tile, -(-len(frame) // COLUMNS) * tile), (127, 127, 127))
    for i, unit in enumerate(frame.itertuples()):
        try:
            with Image.open(place(unit.label, unit.seed)) as image:
                small = image.convert("RGB")
        except OSError:
            continue
        if small.size != (tile, tile):
            small = small.resize((tile, tile), Image.Resampling.LANCZOS)
        sheet.paste(small, (i % COLUMNS * tile, i // COLUMNS * tile))
    return sheet


def _full(
    folder: Path, summary: pd.DataFrame, chosen: dict[str, pd.DataFrame], picks: dict[str, dict[str, int]]
) -> dict[str, str]:
    """Picked units at full size: sample, difference and the baseline's image; the worst of every cell before the others."""
    wanted: dict[str, Path] = {}
    baselines = dict(zip(summary["cell"], summary["baseline"], strict=True))
    for pick in PICKS:
        for cell, frame in chosen.items():
            if pick in picks[cell]:
                unit = frame.iloc[picks[cell][pick]]
                for owner, suffix in ((cell, ""), (cell, "_diff"), (baselines[cell], "")):
                    name = image_name(int(unit["label"]), int(unit["seed"]), suffix)
                    wanted.setdefault(f"{owner}/{name.removesuffix('.png')}", folder / owner / name)
    return fit([(key, path) for key, path in wanted.items() if path.is_file()], FULL)


def _plain(values: pd.Series) -> list[Any]:
    """Numbers of at most six digits, None for null."""
    return [None if v is None or v != v else v for v in map(_short, _objects(values))]


def _objects(values: pd.Series) -> Iterable[Any]:
    return list(values.astype(object).where(values.notna(), None))


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
