"""Put result tables of the kept studies, and the drawing of strategies, into README.md and docs; draw the README's pictures.

`python scripts/readme.py`; a test keeps them in step. `python scripts/readme.py gallery STUDY …` makes docs/figures/gallery
from the figures of studies, small.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.image as mpl_image
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from sdvar_exp.metrics.permutation import holm
from sdvar_exp.report.figures import known, material_of, read_index
from sdvar_exp.report.plots import tradeoff
from sdvar_exp.report.style import INK, MUTED, PALETTE, Drawn, data_hash, look, rendered, styled

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/guide.md", "docs/STUDY.md")
FIVE = (
    "sequential (A/A)",
    "hybrid until=3 exact γ=3",
    "hybrid until=5 exact γ=3",
    "collaborative N=5",
    "parallel_v1 exact γ=2",
)
"""Rows of the study `front` that the README shows."""
MAKERS = {
    "sequential": "T" * 10,
    "draft_only": "D" * 10,
    "collaborative N=5": "T" * 5 + "D" * 5,
    "model_schedule T6 D3 T1": "T" * 6 + "D" * 3 + "T",
    "test3 K=5": "D" * 5 + "T" * 5,
    "hybrid until=5": "V" * 5 + "D" * 5,
    "parallel_v1": "V" * 10,
    "dynamic_gamma": "V" * 10,
}
"""Maker of each of the ten stages: the target alone, the draft alone, or the draft with the target as verifier."""


def render(text: str) -> str:
    """A page with each study's `tables/results.md` and the drawing between the markers that it has."""
    made = {"front": _table("front", FIVE), "reference": _table("reference"), "strategies": drawing(), **study_tables()}
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
    rows = [f"{'stage'.ljust(width)}  {' '.join(f' {k} ' for k in range(10))}"]
    rows += [f"{name.ljust(width)}  {' '.join(f'[{one}]' for one in makers)}" for name, makers in MAKERS.items()]
    key = "[T] target alone   [D] draft alone   [V] proposed by the draft, verified by the target"
    return "\n".join(["<!-- shown: a drawing -->", "```text", *(row.rstrip() for row in rows), "", key, "```"])


STUDY = ROOT / "results" / "study"
MEASURES = {"class_accuracy": 3, "fd_real": 2}
"""And their decimals."""
SEARCHED = {"cfg": "g", "target": "", "draft": "", "rows": ".3f"}
HEADLINE = ("sequential", "T7 o3", "T7 D2 T1", "T6 D3 T1", "CoDe 8", "T5 D4 t1", "CoDe 7", "T4 D5 t1", "CoDe 6", "draft_only")
"""Rows of the study that the README shows."""
SECTIONS = {
    "lossless": r"parallel_v1 (exact|rejection|stage_rejection)( candidates=4)? γ=3",
    "rules": r"parallel_v1 (exact|(match_rate|tv|kl|top_k|typical) .*) γ=3",
    "masks": r"parallel_v1 exact γ=3( block_diagonal| token_causal_blocks| local_stages)?",
    "guidance": r"(sequential|parallel_v1 exact γ=3)( (off|cfg=off|constant|interval|cfg=3|linear cfg=3|top_k.*))?",
    "controllers": r"parallel_v1 exact γ=3|dynamic_gamma .*",
    "proposers": r"parallel_v1 exact γ=3( proposer=.*| embedded_plain| draft=.*)?|collaborative N=5( draft=.*)?",
    "orders": r"(test3|collaborative|hybrid|model_schedule) (?!.*draft=).*",
}
"""Sections of docs/STUDY.md, by what the names of their cells look like."""


def schedule(name: str) -> str:
    """`CoDe 6` for `collaborative N=6`, `T5 D4 t1` for `model_schedule T5 D4 t1`."""
    return name.replace("collaborative N=", "CoDe ").removeprefix("model_schedule ")


def _named(name: str) -> str:
    """A schedule as tables name it."""
    alone = {"sequential": "target alone", "draft_only": "draft alone"}
    parts = re.findall(r" (draft|target)=(.+?)(?= (?:draft|target)=|$)", name)
    bare = re.sub(r" (?:draft|target)=.*", "", name)
    known, _, guidance = bare.partition(" ")
    if known != "CoDe":
        bare = f"{alone[known]}{guidance and f', guidance {guidance}'}" if known in alone else f"`{bare}`"
    return ", ".join([bare, *(v if (known, role) == ("sequential", "target") else f"{v} {role}" for role, v in parts)])


def _study(name: str) -> pd.DataFrame:
    table = pd.read_csv(STUDY / f"{name}.csv")
    return table.assign(**{key: table[key].map(schedule) for key in ("schedule", "a", "b") if key in table})


def _qualities(name: str, speeds: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The rows of a table of schedules, with their names."""
    rows = []
    for row in _study(name).to_dict("records"):
        name = row["schedule"]
        speed = _between(timed, "speedup", 2) if (timed := _timed(name, speeds)) else "–"
        difference = "–" if math.isnan(row["pixel_mae"]) else f"{row['pixel_mae']:.4f}"
        measured = [_between(row, key, decimals) for key, decimals in MEASURES.items()]
        rows.append((name, [_named(name), f"{row['rows']:.3f}", speed, difference, *measured]))
    return rows


def differences(place: str = "fresh") -> list[dict[str, Any]]:
    """First minus second, of the pairs that `pairs.csv` names for a folder of results/study.

    `…_p`: of a normal statistic, whose deviation is that of the interval, adjusted by Holm over all pairs and both measures.
    """
    known = {(row["a"], row["b"]): row for row in _study(f"{place}/differences").to_dict("records")}
    out: list[dict[str, Any]] = []
    for a, b in _study("pairs").query("table == @place")[["a", "b"]].itertuples(index=False):
        turn = 1 if (a, b) in known else -1
        row = known[(a, b) if turn == 1 else (b, a)]
        out.append({"a": a, "b": b, "n": row["n"], "rows": round(turn * row["rows"], 6) + 0.0})
        for key in MEASURES:
            ends = sorted(turn * row[f"{key}{end}"] for end in ("_low", "_high"))
            out[-1] |= {key: turn * row[key], f"{key}_low": ends[0], f"{key}_high": ends[1]}
    deviations = [abs(row[key]) / ((row[f"{key}_high"] - row[f"{key}_low"]) / 3.92) for row in out for key in MEASURES]
    for i, p in enumerate(holm([math.erfc(d / math.sqrt(2)) for d in deviations])):
        out[i // len(MEASURES)][f"{[*MEASURES][i % len(MEASURES)]}_p"] = p
    return out


def _apart(found: Iterable[Mapping[str, Any]], speeds: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The rows of a table of paired differences; a star where p < .05."""
    rows = []
    for one in found:
        first, second = (_timed(one[key], speeds) for key in "ab")
        ratio = f"{first['speedup'] / second['speedup']:.2f}" if first and second else "–"
        measured = [
            _between(one, key, decimals) + (" \\*" if one[f"{key}_p"] < 0.05 else "") for key, decimals in MEASURES.items()
        ]
        rows.append([_named(one["a"]), _named(one["b"]), f"{one['rows']:+.3f}", ratio, *measured])
    return rows


def _speeds(name: str = "times") -> dict[str, dict[str, Any]]:
    """The row of each schedule that was timed."""
    return {row["schedule"]: row for row in _study(name).to_dict("records")}


def _timed(name: str, speeds: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The times of a schedule; another strength of guidance takes as long, and so does a draft of the same shape."""
    plain = re.sub(r" cfg=\S+", "", name)
    return speeds.get(name, speeds.get(plain, speeds.get(plain.replace(" draft=late", ""))))


def _between(row: Mapping[str, Any], key: str, decimals: int) -> str:
    """A value and its interval."""
    value, low, high = (row[f"{key}{end}"] for end in ("", "_low", "_high"))
    shown, *ends = (f"{x:.{decimals}f}" for x in (value, low, high))
    return ("0" if value == 0 else shown) if low == high else f"{shown} [{', '.join(ends)}]"


def _markdown(head: str, rows: Iterable[Sequence[str]]) -> str:
    columns = head.split(" | ")
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PLACES = {"schedules": "fresh", "late": "fresh_late", "emoji": "emoji_fresh", "low": "low", "guidance_strength": "guidance"}
PLACES |= {"found": "front", "half": "half", "precise": "precision"}
"""Tables of schedules, and whose folder of results/study they show."""
PAIRED = {"pairs": "fresh"} | {f"{name}_pairs": PLACES[name] for name in ("late", "low", "emoji", "found", "half", "precise")}
"""The same of paired differences."""


def study_tables() -> dict[str, str]:
    """The tables of docs/STUDY.md and the README's part of them, by the name of their markers."""
    speeds = {place: _speeds("emoji/times" if place.startswith("emoji") else "times") for place in PLACES.values()}
    speeds |= {"guidance": {}, "half": {}, "precision": _speeds("precision/times")}  # nothing was timed in the first two
    rows = {name: _qualities(f"{place}/quality", speeds[place]) for name, place in PLACES.items()}
    seen = {name for name, _ in rows["schedules"]} - {"sequential", "T6 D3 T1"}
    rows["study"] = [(name, row) for name, row in rows["schedules"] if name in HEADLINE]
    rows["rivals"] = [(name, row) for name, row in _qualities("quality", speeds["fresh"]) if name not in seen]
    paired = {name: _apart(differences(place), speeds[place]) for name, place in PAIRED.items()}
    derived = [
        [str(row["device"]), str(row["pair"]), f"{row['target_ms']:.1f}", *(f"{v:.2f}" for v in list(row.values())[3:])]
        for row in _study("predicted").to_dict("records")
    ]
    columns = " | ".join(f"`{name}`" for name in _study("predicted").columns[3:])
    cells = [row for name in ("ablation", "drafts") for row in _study(name).to_dict("records")]
    judged = _study("passes").set_index("name")
    sections = {key: [row for row in cells if re.fullmatch(words, str(row["name"]))] for key, words in SECTIONS.items()}
    lossless = [row["name"] for row in sections["lossless"] if row["name"] in judged.index]
    passes = [[f"`{name}`", *(f"{p:.2f}" for p in judged.loc[name])] for name in lossless]
    quality, apart = "schedule | rows | speed-up | pixel difference | class accuracy | FD", "first | second | rows | speed"
    return {
        **{name: _markdown(quality, [row for _, row in found]) for name, found in rows.items()},
        **{name: _markdown(f"{apart} | class accuracy | FD", found) for name, found in paired.items()},
        "graphs": _markdown("schedule | depth 16, graphs | depth 8, graphs | depth 8, eager", _launch_bound()),
        "search": _searched("search"),
        "precisions": _searched("precision/search"),
        "predicted": _markdown(f"device | pair | target ms | {columns}", derived),
        "passes": _markdown(" | ".join(["rule", *(f"stage {k}" for k in judged.columns)]), passes),
        **{
            name: _markdown("cell | calls | rows | length | pixel difference", map(_ablated, r)) for name, r in sections.items()
        },
    }


def _searched(name: str) -> str:
    """The table of a search: its front, and the target alone; a column for each thing that differs."""
    found = _study(name).query("front or schedule == 'sequential'")
    given = [key for key in SEARCHED if found[key].nunique() > 1]
    measured = {key: n for key, n in {"speedup": 2, **MEASURES}.items() if found[key].nunique() > 1}
    rows = []
    for r in found.fillna({"draft": "–"}).to_dict("records"):
        values = [*(f"{r[k]:{SEARCHED[k]}}" for k in given), *(_between(r, k, n) for k, n in measured.items())]
        rows.append([_named(r["schedule"]), *values, "\\*" * r["front"]])
    head = " | ".join(["schedule", *given, *measured, "front"])
    return _markdown(head.replace("fd_real", "FD").replace("_", " ").replace("speedup", "speed-up"), rows)


def _launch_bound() -> list[list[str]]:
    """The rows of the table of schedules timed on a GPU at official sizes; two runs stand side by side."""
    timed = _study("graphs").assign(text=lambda d: [_between(row, "speedup", 2) for row in d.to_dict("records")])
    cells = timed.groupby(["schedule", "draft", "execution"], sort=False)["text"].agg("; ".join).unstack([1, 2])
    wanted = [("16x1024", "graphs"), ("8x512", "graphs"), ("8x512", "eager")]
    order = [name for name in timed["schedule"].drop_duplicates() if name != "T10"]
    return [[f"`{name}`", *cells.loc[name, wanted].fillna("–")] for name in order]


def _ablated(row: Mapping[str, Any]) -> list[str]:
    """A cell of the ablation: `*` where every token is as the target would have sampled it."""
    length = f"{row['mean_acceptance_length']:.2f}" if row["mean_acceptance_length"] > 0 else "–"
    name = f"`{row['name']}`{' *' if row['identical'] == row['compared'] else ''}"
    calls, rows = _between(row, "target_calls", 1), _between(row, "target_token_forwards", 2)
    return [name, calls, rows, length, _between(row, "pixel_mae", 3)]


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


STUDY_PICTURE = ROOT / "docs" / "figures" / "study.png"
LINES = {
    "CoDe's order: target first, then draft": ("CoDe 5", "CoDe 6", "CoDe 7", "CoDe 8"),
    "sandwich: the target makes the last stage too": ("T4 D5 t1", "T5 D4 t1", "T6 D3 t1", "T6 D3 T1", "T7 D2 T1"),
}


def study_picture() -> Drawn:
    """Fréchet distance and class accuracy against measured speed-up: both orders of models, and the target alone."""
    quality, speeds = _study("fresh/quality").set_index("schedule"), _speeds()
    with styled():
        fig = Figure((8.4, 3.2))
        panels = (("fd_real", "Fréchet distance to real images (less is better)"), ("class_accuracy", "class accuracy"))
        for i, (key, label) in enumerate(panels):
            axis = fig.add_axes((0.07 + 0.5 * i, 0.14, 0.42, 0.72))
            axis.grid(True)
            axis.set_xlim(0.85, 1.1 * max(speeds[name]["speedup"] for names in LINES.values() for name in names))
            axis.set_xlabel("speed-up over the target alone, one image")
            axis.set_title(label, loc="left")
            groups = [*LINES.items(), ("target alone", ("sequential",))]
            for (title, names), colour, marker in zip(groups, (*PALETTE[1::-1], "#000000"), "sDo", strict=True):
                x = [1.0 if name == "sequential" else speeds[name]["speedup"] for name in names]
                y = quality.loc[list(names), key]
                apart = [y - quality.loc[list(names), f"{key}_low"], quality.loc[list(names), f"{key}_high"] - y]
                axis.errorbar(
                    x, y, apart, fmt=marker, ls="-" if len(names) > 1 else "", ms=4, lw=1, elinewidth=0.7, color=colour
                )
                for name, speed, value, high in zip(names, x, y, y + apart[1], strict=True):
                    left, above = colour == PALETTE[1], (colour == PALETTE[1]) != bool(i)
                    at, by, side = (speed, value), (-5 if left else 5, 5 if above else -9), "right" if left else "left"
                    if len(names) == 1:
                        at, by, side = (speed, high), (0, 3), "center"
                    text = _named(name).strip("`").removesuffix(" alone")
                    axis.annotate(text, at, xytext=by, ha=side, color=colour, fontsize=6.5, textcoords="offset points")
                if not i and len(names) > 1:
                    fig.text(0.07 + 0.32 * (colour == PALETTE[0]), 0.95, title, color=colour, fontsize=8)
    return Drawn("study", "What a schedule costs in quality", fig, data_hash(quality.reset_index(), STUDY / "times.csv"))


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
        for file, drawn in ((PICTURE, picture()), (STUDY_PICTURE, study_picture())):
            file.write_bytes(small(rendered(drawn, "png", "python scripts/readme.py"), 1400))
    for name in PAGES:
        page = ROOT / name
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
        sys.stdout.write(f"{page}\n")
