"""Are the figures on disk those of the data? Drawn again and compared: first the hash of the data, then pixels."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdvar_exp.errors import UserError
from sdvar_exp.report.figures import INDEX, Failed, draw_figures, family, known, material_of, read_index
from sdvar_exp.report.style import Drawn, rendered

log = logging.getLogger(__name__)

LEVEL, SHARE = 24, 0.002
"""Pixels differ if a channel differs by more than LEVEL of 255; so many of them may: other versions of fonts and of
matplotlib move the edges of letters and lines by parts of a pixel."""
HASH = re.compile(rb"data sha256 ([0-9a-f]{64})")


@dataclass(frozen=True)
class Checked:
    """Outcome for one figure. problem: empty where it agrees. pixels: share of differing ones, None if not compared."""

    name: str
    problem: str = ""
    pixels: float | None = None
    data_sha256: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"same": not self.problem, **asdict(self)}


def verify(folder: Path, share: float = SHARE) -> list[Checked]:
    """Each figure that `index.json` of the folder (or of its `figures/`) names, drawn again from its study.

    A figure agrees if the hash of its data is that in the index and in each of its files, and at most `share` of the pixels
    of its PNG differ. Raises `UserError` where there is no index, or no study any more.
    """
    place = folder if (folder / INDEX).is_file() else folder / "figures"
    made = read_index(place)
    wanted: dict[tuple[Any, Any, bool], dict[str, dict[str, Any]]] = defaultdict(dict)
    for entry in made.figures:
        wanted[entry.get("venue"), entry.get("profile"), bool(entry.get("every"))][entry["name"]] = entry
    found: dict[str, Checked] = {}
    for (venue, profile, every), entries in wanted.items():
        material = material_of(made.study, venue, profile, every)
        reasons: dict[str, str] = {}
        registered = {entry.name for entry in known()}
        names = [name for name in dict.fromkeys(map(family, entries.values())) if name in registered]
        for name, drawn in draw_figures(material, names) if names else ():
            if isinstance(drawn, str):
                reasons[name] = drawn
            elif drawn.name in entries:
                try:
                    found[drawn.name] = _check(drawn, entries[drawn.name], place, share)
                except Exception as error:  # one file that cannot be read loses no other
                    found[drawn.name] = Checked(drawn.name, str(Failed(error)), data_sha256=drawn.data_hash)
            else:
                found[drawn.name] = Checked(drawn.name, f"is not in {INDEX}: the study has more data now")
        for name, entry in entries.items():
            if name not in found:
                absent = "the study has fewer data now" if family(entry) in registered else "its plugin is not there (--plugin)"
                reason = reasons.get(family(entry), absent)
                found[name] = Checked(name, f"can no longer be drawn: {reason}")
    order = [*(e["name"] for e in made.figures), *found]
    return [found[name] for name in dict.fromkeys(order)]


def _check(drawn: Drawn, entry: dict[str, Any], place: Path, share: float) -> Checked:
    if entry["data_sha256"] != drawn.data_hash:
        return Checked(drawn.name, "the data have changed since it was drawn", data_sha256=drawn.data_hash)
    for file in (place / name for name in entry["files"]):
        if not file.is_file():
            return Checked(drawn.name, f"{file.name} is missing", data_sha256=drawn.data_hash)
        stored = HASH.search(file.read_bytes())
        if stored is None or stored[1].decode() != drawn.data_hash:
            return Checked(drawn.name, f"{file.name} is of other data", data_sha256=drawn.data_hash)
    if f"{drawn.name}.png" not in entry["files"]:  # the hash of the data is all there is to compare
        return Checked(drawn.name, data_sha256=drawn.data_hash)
    differing = _differing(place / f"{drawn.name}.png", rendered(drawn, "png", entry["command"]))
    if differing is None:
        return Checked(drawn.name, f"{drawn.name}.png has another size", data_sha256=drawn.data_hash)
    problem = f"{100 * differing:.2f} % of its pixels differ" if differing > share else ""
    return Checked(drawn.name, problem, differing, drawn.data_hash)


def _differing(file: Path, again: bytes) -> float | None:
    """Share of pixels that differ by more than LEVEL in a channel; None for other sizes."""
    try:
        with Image.open(file) as one, Image.open(BytesIO(again)) as other:
            a, b = (np.asarray(image.convert("RGB"), np.int16) for image in (one, other))
    except OSError as error:
        raise UserError(f"{file} is no readable PNG file ({error}); make it again with `sdvar-exp figures`") from None
    return float((np.abs(a - b).max(axis=-1) > LEVEL).mean()) if a.shape == b.shape else None
