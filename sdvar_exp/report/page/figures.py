"""The study's figures inside the page: SVG where there is one that is not too large, else PNG, with links to the files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from sdvar_exp.report.page.markup import part
from sdvar_exp.report.page.pictures import data_url, webp
from sdvar_exp.report.style import dark

BUDGET = 6_000_000
LARGEST_SVG = 600_000


@dataclass(frozen=True)
class Shown:
    """A figure: its heading and caption, picture, size in pixels, and links to its files by kind."""

    title: str
    caption: str
    url: str
    size: tuple[int, int]
    links: dict[str, str]


def collect(folder: Path, base: str) -> list[Shown]:
    """Figures in the order of `index.json`, or by name where there is none, as long as the budget lasts."""
    listed = _index(folder)
    names = [str(entry["name"]) for entry in listed] or sorted(path.stem for path in folder.glob("*.png"))
    about = {str(entry["name"]): entry for entry in listed}
    out, left = [], BUDGET
    for name in names:
        png = folder / f"{name}.png"
        if not png.is_file():
            continue
        with Image.open(png) as image:
            size, info = image.size, dict(image.info)
            url = _url(folder / name, png, image)
        if len(url) > left:
            continue
        left -= len(url)
        title = str(about.get(name, {}).get("title") or info.get("Title") or name)
        links = {
            kind: f"{base}/figures/{quote(name)}.{kind}"
            for kind in ("pdf", "svg", "png")
            if (folder / f"{name}.{kind}").is_file()
        }
        out.append(Shown(title, str(about.get(name, {}).get("caption") or ""), url, size, links))
    return out


def markup(shown: list[Shown]) -> str:
    """A figure element each; a button opens it large."""
    return part("figures", shown=shown)


def _url(stem: Path, png: Path, image: Image.Image) -> str:
    svg = stem.with_name(f"{stem.name}.svg")
    if svg.is_file() and svg.stat().st_size <= LARGEST_SVG:
        return data_url(dark(svg.read_bytes()), "svg+xml")
    return data_url(png.read_bytes(), "png") if png.stat().st_size <= LARGEST_SVG else data_url(webp(image, 90), "webp")


def _index(folder: Path) -> list[dict[str, Any]]:
    """Entries of `index.json`; none where it is missing or cannot be read."""
    try:
        found = json.loads((folder / "index.json").read_bytes())
        return [entry for entry in found["figures"] if isinstance(entry, dict) and "name" in entry]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
