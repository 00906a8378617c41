"""Figures: files, equal bytes, metadata, embedded fonts, labels that do not overlap, and what they show."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sdvar_exp.report import summarise, write_figures
from sdvar_exp.report.figures import draw_figures
from sdvar_exp.report.labels import place_labels
from sdvar_exp.report.material import Material
from sdvar_exp.report.plots import acceptance, calls, images, tradeoff
from sdvar_exp.report.style import PALETTE, Drawn, data_hash, look, styled, wrapped

NAMES = [
    "speedup-vs-pixel-difference", "speedup-vs-frechet-distance", "target-calls-and-token-forwards", "acceptance-by-stage",
    "gamma-traces", "mask-by-strategy", "guidance-schedules", "time-breakdown", "predicted-vs-measured", "factor-effects",
    "images", "stages-of-a-decode", "stages-of-a-decode-2",
]  # fmt: skip
REPEATED = ("speedup-vs-pixel-difference", "acceptance-by-stage", "guidance-schedules", "factor-effects", "images")
COMMAND = "sdvar-exp figures made_up"


@pytest.fixture(scope="module")
def folder(study, add_images, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("study")
    add_images(study, place, side=16)
    quality = pd.DataFrame({"cell": study.runs["cell"], "fd_real": np.linspace(3, 9, len(study.runs)), "note": ""})
    quality = quality.assign(fd_real_low=quality["fd_real"] - 1, fd_real_high=quality["fd_real"] + 1)
    (place / "tables").mkdir()
    quality.to_parquet(place / "tables" / "quality.parquet")
    return place


@pytest.fixture(scope="module")
def written(study, folder) -> list[Path]:
    return write_figures(study, folder / "figures", command=COMMAND)


@pytest.fixture(scope="module")
def summary(study):
    return summarise(study).assign(number=range(1, len(study.runs) + 1))


def test_all_figures_are_written(written, folder):
    assert [p.name for p in written] == [f"{n}.{kind}" for n in NAMES for kind in ("pdf", "png", "svg")]
    assert sorted(p.name for p in (folder / "figures").iterdir()) == sorted([*(p.name for p in written), "index.json"])
    for path in written:
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("L")).std() > 5


def test_the_index_says_what_each_figure_shows(written, folder):
    index = json.loads((folder / "figures" / "index.json").read_text())
    assert [f["name"] for f in index["figures"]] == NAMES
    assert index["study"] == ".." and index["skipped"] == {}
    for entry in index["figures"]:
        assert len(entry["data_sha256"]) == 64
        assert "n = " in entry["caption"] or entry["name"] == "guidance-schedules", entry["caption"]
        assert entry["command"].startswith(f"{COMMAND} --only ")


def test_equal_data_give_equal_bytes(study, folder, written, tmp_path):
    again = write_figures(study, tmp_path, images=folder / "images", command=COMMAND, only=[n for n in NAMES if n in REPEATED])
    assert len(again) == 3 * len(REPEATED)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in written if p.stem in REPEATED]


def test_metadata_hold_hash_and_command_but_no_date(written):
    for path in written:
        raw = path.read_bytes()
        assert b"CreationDate" not in raw and b"<dc:date>" not in raw
        assert COMMAND.encode() in raw
        assert re.search(rb"data sha256 [0-9a-f]{64}", raw)
        if path.suffix == ".png":
            assert "Software" not in Image.open(path).info


def test_fonts_are_embedded_as_truetype(written):
    for path in written:
        if path.suffix == ".pdf":
            assert b"/FontFile2" in path.read_bytes()
            assert b"/Type3" not in path.read_bytes()
        if path.suffix == ".svg":
            assert b"<text" not in path.read_bytes()  # letters are outlines: no font is needed


def test_the_hash_follows_the_data(summary, folder):
    data = tradeoff.frame(summary)
    assert data_hash(data) == data_hash(data.copy())
    assert data_hash(data) != data_hash(data.assign(speedup=data["speedup"] + 1e-6))
    picture = next((folder / "images").rglob("*.png"))
    assert data_hash(data, picture) != data_hash(data)


def test_pareto_front(summary):
    data = tradeoff.frame(summary).set_index("name")
    assert set(data.index[data["pareto"]]) == {
        "sequential", "draft_only", "hybrid verify_until=5 exact γ=2", "dynamic_gamma aimd match_rate τ=0.7",
    }  # fmt: skip
    twins = tradeoff.frame(summary.iloc[[0, 0]])
    assert twins["pareto"].all()  # equal cells do not push each other off the front


def drawn_names(study, place: Path) -> set[str]:
    """Names of the figures that can be drawn, each rendered once."""
    numbered = summarise(study).assign(number=range(1, len(study.runs) + 1))
    names = set()
    for _, drawn in draw_figures(Material(study, numbered, place)):
        if isinstance(drawn, Drawn):
            drawn.figure.set_dpi(20)
            drawn.figure.canvas.draw()
            names.add(drawn.name)
    return names


def test_untimed_cells_leave_no_speedup_figure(new_study, tmp_path):
    names = drawn_names(new_study(timed=False, seeds=2), tmp_path)
    assert names == set(NAMES) - {"images", *(n for n in NAMES if n.startswith(("speedup", "time", "predicted", "stages")))}


def test_a_study_without_cells_has_no_figures(new_study, tmp_path):
    study = new_study(seeds=1)
    for name in ("runs", "samples", "stages", "timings", "noise"):
        setattr(study, name, getattr(study, name).iloc[:0])
    assert write_figures(study, tmp_path) == []


def test_one_unit_without_intervals_can_be_drawn(new_study, tmp_path):
    names = drawn_names(new_study(labels=(0,), seeds=1), tmp_path)
    assert names == set(NAMES) - {"images", *(n for n in NAMES if n.startswith(("speedup-vs-f", "stages")))}


def test_calls_show_means_of_the_summary(summary):
    data = calls.frame(summary)
    assert len(data) == 8
    assert data.loc[4, "target_token_forwards"] == summary.loc[4, "target_token_forwards"]


def test_acceptance_by_stage_has_no_point_where_nothing_was_judged(study, summary):
    data = acceptance.frame(study, summary)
    hybrid = data[(data["number"] == 8) & (data["quantity"] == "match_rate")]
    assert list(hybrid["stage"]) == [0, 1, 2, 3, 4]
    assert set(hybrid["n"]) == {24}
    assert set(data["number"]) == {5, 6, 7, 8}


def test_a_stage_between_judged_ones_stays_empty(new_study, summary):
    study = new_study(seeds=2)
    study.stages.loc[study.stages["stage"] == 4, ["match_rate", "acceptance"]] = None
    data = acceptance.frame(study, summary)
    assert data[data["stage"] == 4]["mean"].isna().all()
    assert (data[data["stage"] == 4]["n"] == 0).all()


def test_image_pages_take_units_of_many_labels_first(study, summary, folder):
    (page,) = images.pages(study, summary, folder / "images")
    assert list(dict.fromkeys(page["side"])) == [
        "label 0\nseed 0", "label 0\nseed 1", "label 3\nseed 0", "label 8\nseed 0",
    ]  # fmt: skip
    captions = page[page["row"] == 0]["caption"].tolist()
    assert captions[0] == "mean |a−b|:"
    assert captions[4] == "equal"


def test_more_cells_make_more_pages(new_study, add_images, tmp_path):
    baseline = ("sequential", "sequential", None, 0.0, 1.0, 10.0, 1.0)
    cells = (baseline, *((f"test3 entry_num={i}", "test3", None, 0.01 * i, 1.5, 5.0, 1.0) for i in range(1, 10)))
    study = new_study(cells, seeds=1)
    add_images(study, tmp_path, side=8)
    summary = summarise(study).assign(number=range(1, 11))
    pages = list(images.pages(study, summary, tmp_path / "images"))
    assert [p["cell"].nunique() for p in pages] == [8, 3]
    assert all(p[p["column"] == 0]["cell"].nunique() == 1 for p in pages)


def test_two_baselines_have_pages_of_their_own(new_study, add_images, tmp_path):
    one, two = new_study(seeds=1, labels=(0,)), new_study(seeds=1, labels=(0,), schedule="constant")
    for study in (one, two):
        add_images(study, tmp_path, side=8)
    for name in ("runs", "samples", "stages", "timings", "noise"):
        setattr(one, name, pd.concat([getattr(one, name), getattr(two, name)], ignore_index=True))
    one.runs["order"] = range(len(one.runs))
    summary = summarise(one).assign(number=range(1, len(one.runs) + 1))
    assert list(summary["is_baseline"]).count(True) == 2
    assert len(list(images.pages(one, summary, tmp_path / "images"))) == 2


def test_numbers_do_not_overlap(new_study):
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, 0.12, 30).tolist(), rng.normal(0.5, 0.12, 30).tolist()
    with styled():
        fig = Figure((6, 4))
        axis = fig.add_axes((0.1, 0.1, 0.85, 0.85), xlim=(0, 1), ylim=(0, 1))
        place_labels(axis, x, y, [str(i) for i in range(30)])
        fig.canvas.draw()
        boxes = [text.get_window_extent() for text in axis.texts]
    ink = [b.shrunk(0.8, 0.6) for b in boxes]  # an extent includes room for descenders, which digits lack
    inside = axis.get_window_extent()
    assert not [(a, b) for i, a in enumerate(ink) for b in ink[:i] if a.overlaps(b)]
    assert all(inside.x0 <= b.x0 and b.x1 <= inside.x1 for b in boxes)


def test_looks_are_stable_and_distinct():
    styles = look(["test3", "my_own", "another"])
    assert styles["test3"] == look(["sequential"])["test3"]
    assert len(set(styles.values())) == len(styles) == 9
    assert styles["my_own"][0] in PALETTE


def test_wrapped_marks_what_it_cuts():
    assert wrapped("a b", 10) == "a b"
    assert wrapped("one two three four five", 9, 2) == "one two\nthree …"


def test_the_users_settings_stay_as_they_are(written, study, tmp_path):
    matplotlib.rcParams["font.size"] = 31
    try:
        other = write_figures(study, tmp_path, images=tmp_path, command=COMMAND, only=NAMES[:1])
        assert matplotlib.rcParams["font.size"] == 31
        assert other[0].read_bytes() == written[0].read_bytes()
    finally:
        matplotlib.rcdefaults()


def test_the_report_imports_no_torch():
    code = (
        "import sys, json, sdvar_exp.report, sdvar_exp.metrics; "
        "print(json.dumps([m for m in ('torch', 'hydra', 'wandb', 'matplotlib.pyplot') if m in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []
