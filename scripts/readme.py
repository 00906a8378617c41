"""Put result tables of the kept studies, and the drawing of strategies, into README.md and docs/guide.md; draw its picture.

`python scripts/readme.py`; a test keeps them in step. `python scripts/readme.py gallery STUDY …` makes docs/figures/gallery
from the figures of studies, small.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.image as mpl_image
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from sdvar_exp.report.figures import known, material_of, read_index
from sdvar_exp.report.plots import tradeoff
from sdvar_exp.report.style import INK, MUTED, Drawn, data_hash, look, rendered, styled

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/guide.md")
FIVE = (
    "sequential (A/A)",
    "hybrid until=3 exact γ=3",
    "hybrid until=5 exact γ=3",
    "collaborative N=5",
    "parallel_v1 exact γ=2",
)
"""Rows of the study `front` that the README shows."""
STAGES = 10
MAKERS = {
    "sequential": "T" * 10,
    "draft_only": "D" * 10,
    "collaborative N=5": "T" * 5 + "D" * 5,
    "test3 K=5": "D" * 5 + "T" * 5,
    "hybrid until=5": "V" * 5 + "D" * 5,
    "parallel_v1": "V" * 10,
    "dynamic_gamma": "V" * 10,
}
"""Who makes each of the ten stages: the target alone, the draft alone, or the draft with the target as verifier."""


def render(text: str) -> str:
    """A page with each study's `tables/results.md` and the drawing between the markers that it has."""
    made = {"front": _table("front", FIVE), "reference": _table("reference"), "strategies": drawing()}
    for name, content in made.items():
        begin, end = (f"<!-- {name} table: {word} -->" for word in ("begin", "end"))
        if begin in text:
            before, rest = text.split(begin)
            text = f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
    return text


def _table(study: str, names: tuple[str, ...] = ()) -> str:
    """The study's table, of some cells alone where they are named, with the line that says what its numbers are."""
    lines = (ROOT / "results" / study / "tables" / "results.md").read_text(encoding="utf-8").strip().splitlines()
    if not names:
        return "\n".join(lines)
    rows = {line.split(" | ")[0].removeprefix("| ").replace("\\", ""): line for line in lines if line.startswith("| ")}
    return "\n".join([*lines[:2], *(rows[name] for name in names), "", lines[-1]])


def drawing() -> str:
    """One row of boxes per strategy."""
    width = max(map(len, MAKERS))
    rows = [f"{'stage'.ljust(width)}  {' '.join(f' {k} ' for k in range(STAGES))}"]
    rows += [f"{name.ljust(width)}  {' '.join(f'[{one}]' for one in makers)}" for name, makers in MAKERS.items()]
    key = "[T] target alone   [D] draft alone   [V] proposed by the draft, verified by the target"
    return "\n".join(["<!-- shown: a drawing -->", "```text", *(row.rstrip() for row in rows), "", key, "```"])


PICTURE = ROOT / "docs" / "figures" / "front.png"
NAMED = {
    "sequential": "target alone",
    "parallel_v1 exact γ=2": "lossless speculation\nparallel_v1 exact γ=2",
    "collaborative N=5": "CoDe's order\ncollaborative N=5",
    "hybrid until=3 exact γ=3": "verified, then drafted\nhybrid until=3 exact γ=3",
    "draft_only": "draft alone",
}
"""Cells of the study `front` that its picture names, from the nearest to the reference on."""
UNIT = "0_0"
"""Label and seed of the images beside the front."""


def picture() -> Drawn:
    """The front of the kept study with four cells and the target named, and one image of each, of one seed."""
    material = material_of(ROOT / "results" / "front")
    data = tradeoff.frame(material.summary)
    cells = material.summary.set_index("name")["cell"]
    files = {name: material.images / cells[name] / f"{UNIT}_stages.png" for name in NAMED}
    styles = look(data["strategy"].tolist())
    with styled():
        fig = Figure((8.4, 3.9))
        axis = fig.add_axes((0.07, 0.125, 0.53, 0.86), yscale="log", xlim=(-0.006, 0.098), ylim=(0.4, 6))
        axis.axhline(1, color=MUTED, lw=0.8)
        axis.grid(True)
        axis.set_yticks([0.5, 1, 2, 3, 4, 5], ["0.5×", "1×", "2×", "3×", "4×", "5×"])
        axis.set_yticks([], minor=True)
        axis.set_xlabel("pixel difference to the target's own image")
        axis.set_ylabel("speed-up over the target alone")
        front = data[data["pareto"]].sort_values("x")
        axis.step(front["x"], front["speedup"], where="post", color=MUTED, lw=0.8, ls=":")
        for row in data.itertuples(index=False):
            colour, marker = styles[row.strategy]
            size, fill = (7, colour) if row.name in NAMED else (4, "white")
            axis.plot(row.x, row.speedup, marker, ms=size, color=colour, mfc=fill, alpha=1 if row.name in NAMED else 0.6)
            if row.name in NAMED:
                short, at = NAMED[row.name].partition("\n")[0], (row.x, row.speedup)
                axis.annotate(short, at, va="top", xytext=(9, -2), textcoords="offset points", fontsize=8)
        for i, (name, text) in enumerate(NAMED.items()):
            row = data[data["name"] == name].iloc[0]
            top = 0.985 - i * 0.172
            tiles = mpl_image.imread(files[name])
            side = tiles.shape[0] // 3  # the last stage's committed image is in the last row and column
            spot = fig.add_axes((0.625, top - 0.16, 0.16 * 3.9 / 8.4, 0.16))
            spot.imshow(tiles[-side:, -side:], interpolation="none", vmin=0, vmax=1)
            spot.set_axis_off()
            fig.text(0.712, top - 0.03, text, va="top", fontsize=8, color=INK, linespacing=1.25)
            difference = "the same image" if row.x == 0 else f"difference {row.x:.3f}"
            numbers = "the reference" if row.is_baseline else f"{row.speedup:.1f}×, {difference}"
            fig.text(0.712, top - 0.03 - 0.044 * (1 + text.count("\n")), numbers, va="top", fontsize=7.5, color=MUTED)
        label = material.classes.of(int(UNIT.partition("_")[0]))
        fig.text(0.625, 0.10, f"{label}, one seed, the same noise for all", fontsize=7.5, color=MUTED)
    shown = data[data["name"].isin(NAMED)]
    return Drawn("front", "Speed-up against pixel difference, with images of one seed", fig, data_hash(shown, *files.values()))


def small(png: bytes, width: int, colours: int = 128, grey: bool = False) -> bytes:
    """The picture with few colours, shades of grey if it has no others, and at most so many pixels across; its texts kept."""
    with Image.open(BytesIO(png)) as image:
        info = PngImagePlugin.PngInfo()
        for key in ("Title", "Description", "Comment"):
            if key in image.info:
                info.add_text(key, image.info[key])
        flat = image.convert("RGB")
    flat.thumbnail((width, 10 * width), Image.Resampling.LANCZOS)
    out = BytesIO()
    few = (
        flat.convert("L").quantize(24) if grey else flat.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    few.save(out, "png", optimize=True, pnginfo=info)
    return out.getvalue()


GALLERY = ROOT / "docs" / "figures" / "gallery"


def gallery(studies: list[Path]) -> str:
    """Write each figure small to `GALLERY`, of the first study that has it; what docs/figures.md says of them."""
    made: dict[str, tuple[Path, dict[str, Any]]] = {}
    for study in studies:
        for one in read_index(study / "figures").figures:
            made.setdefault(str(one.get("figure", one["name"])), (study, one))
    GALLERY.mkdir(exist_ok=True)
    lines = []
    for name in (entry.name for entry in known() if entry.name in made):
        study, found = made[name]
        png = (study / "figures" / f"{found['name']}.png").read_bytes()
        (GALLERY / f"{name}.png").write_bytes(small(png, 560, grey=True) if name == "images" else small(png, 760, 64))
        lines += [f"![{found['title']}](figures/gallery/{name}.png)", "", f"    {found['command']}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["gallery"]:
        sys.stdout.write(gallery([Path(word) for word in sys.argv[2:]]))
        sys.exit()
    with styled():
        PICTURE.write_bytes(small(rendered(picture(), "png", "python scripts/readme.py"), 1400))
    for name in PAGES:
        page = ROOT / name
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
        sys.stdout.write(f"{page}\n")
