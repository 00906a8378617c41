"""Figures: files, equal bytes, metadata, embedded fonts, labels that do not overlap, and what they show."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sdvar_exp import registry
from sdvar_exp.report import summarise, write_figures
from sdvar_exp.report.classes import classes_of
from sdvar_exp.report.figures import draw_figures, made_on
from sdvar_exp.report.labels import place_labels
from sdvar_exp.report.material import Material
from sdvar_exp.report.plots import acceptance, calls, images, tradeoff
from sdvar_exp.report.style import FOOT, INK, PALETTE, UNSOUND, Drawn, dark, data_hash, look, rendered, styled, wrapped
from sdvar_exp.store.ledger import LedgerWriter

NAMES = [
    "speedup-vs-pixel-difference", "speedup-vs-frechet-distance", "target-calls-and-token-forwards", "acceptance-by-stage",
    "gamma-traces", "commits-by-round", "mask-by-strategy", "guidance-schedules", "time-breakdown", "predicted-vs-measured", "factor-effects",
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
    assert index["study"] == ".." and index["skipped"] == {"factor-interactions": "no four cells differ in two factors alone"}
    for entry in index["figures"]:
        assert len(entry["data_sha256"]) == 64
        assert "n = " in entry["caption"] or entry["name"] == "guidance-schedules", entry["caption"]
        assert entry["command"].startswith(f"{COMMAND} --only ")


@pytest.mark.long
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
        "draft_only", "hybrid verify_until=5 exact γ=2", "dynamic_gamma aimd match_rate τ=0.7",
    }  # fmt: skip
    twins = tradeoff.frame(summary.iloc[[1, 1]])
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


def test_numbers_stand_in_a_column_beside_the_bars(summary):
    """Whatever the whiskers: they end within the axes, the numbers begin behind them."""
    wide = summary.assign(target_calls_high=summary["target_calls"] + 40 * (summary["number"] == 8))
    with styled():
        drawn = calls.figure(calls.frame(wide))
        drawn.figure.canvas.draw()
    axis = drawn.figure.axes[0]
    boxes = [text.get_window_extent() for text in axis.texts]
    assert [text.get_text() for text in axis.texts] == [f"{v:.1f}" for v in calls.frame(wide)["target_calls"]]
    assert all(box.x0 > axis.get_window_extent().x1 for box in boxes) and len({round(box.x1) for box in boxes}) == 1
    assert max(line.get_xdata()[-1] for line in axis.lines if len(line.get_xdata())) <= axis.get_xlim()[1]


def test_classes_have_names_where_the_model_is_known(tmp_path):
    shipped = pd.DataFrame({"config": [json.dumps({"model": {"name": name}}) for name in ("embedded", "embedded_plain")]})
    assert classes_of(tmp_path, shipped).of(9) == "Ankle boot" and classes_of(tmp_path, shipped).of(10) == "label 10"
    mixed = pd.concat([shipped, pd.DataFrame({"config": [json.dumps({"model": {"name": "var_d16_d30"}})]})])
    assert classes_of(tmp_path, mixed).of(0) == classes_of(tmp_path, mixed.iloc[2:]).of(0) == "label 0"
    (tmp_path / "classes.txt").write_text("tench\n\ngreat white shark\n")
    assert [classes_of(tmp_path, mixed).of(label) for label in (0, 1, 2)] == ["tench", "label 1", "great white shark"]


def test_the_line_below_a_figure_names_commit_and_hardware(study, tmp_path):
    runs = study.runs.assign(device_kind="cpu", dtype="float32", threads=1)
    assert made_on(tmp_path, runs) == "study made_up · code c0de · cpu, float32, 1 thread"
    assert made_on(tmp_path, study.runs) == "", "tables that do not say it"
    writer = LedgerWriter(tmp_path / "ledger")
    for commit, dirty, gpus in (("a" * 40, False, []), ("b" * 40, True, ["NVIDIA H100, 81559 MiB, 550.1"])):
        git, hardware = {"commit": commit, "dirty": dirty}, {"processor": "A  CPU", "gpus": gpus}
        writer.append({"type": "session", "argv": [], "git": git, "hardware": hardware})
    assert made_on(tmp_path, runs) == f"study made_up · commit {'b' * 10} with changes and 1 other · A CPU, float32, 1 thread"
    gpu = made_on(tmp_path, runs.assign(device_kind="cuda"))
    assert gpu.endswith("· NVIDIA H100 and 1 other, float32")
    numbered = summarise(study).assign(number=range(1, len(study.runs) + 1))
    (_, drawn), *_ = draw_figures(Material(study, numbered, tmp_path, made="study x · commit y"), ["guidance-schedules"])
    once, twice = (Image.open(BytesIO(rendered(drawn, "png", ""))) for _ in range(2))
    width, height = drawn.figure.get_size_inches()
    assert once.size == twice.size == (round(200 * width), round(200 * (height + FOOT)))
    foot = np.asarray(once.convert("L"))[-round(200 * FOOT) :]
    assert (foot < 200).any() and drawn.figure.texts[-1].get_text() == "study x · commit y" and len(drawn.figure.texts) == 1


def test_times_that_are_not_sound_are_drawn_grey_without_a_front(study, summary, tmp_path):
    loud = summary.assign(sound=pd.array([False] * len(summary), dtype="boolean"), band_low=0.95, band_high=1.05)
    data = tradeoff.frame(loud)
    assert not data["pareto"].any() and data.loc[data["is_baseline"], "speedup"].tolist() == [1.0]
    names = ["speedup-vs-pixel-difference", "factor-effects"]
    found = [drawn for _, drawn in draw_figures(Material(study, loud, tmp_path), names)]
    assert all("not to be relied on" in drawn.caption for drawn in found)
    scatter, _, speed, _ = (axis for drawn in found for axis in drawn.figure.axes if axis.lines and axis.axison)
    colours = {line.get_markeredgecolor() for line in scatter.lines if line.get_marker() not in ("None", "")}
    assert colours == {UNSOUND}
    marks = [line for line in speed.lines if line.get_marker() == "o"]
    assert {(line.get_markeredgecolor(), line.get_markerfacecolor()) for line in marks} == {(UNSOUND, "white")}


def test_dark_paper_has_colours_of_its_own_and_leaves_images(written):
    svg = next(p for p in written if p.name == "images.svg").read_bytes()
    made = dark(svg)
    assert len(made) > len(svg) and made.count(b"<image") == svg.count(b"<image") > 0
    style = made[made.index(b"<style>") : made.index(b"</style>")].decode()
    assert "prefers-color-scheme: dark" in style and f'[style*="fill: {INK}"]' in style and '[style*="fill: #ffffff"]' in style
    assert f"fill: {INK}".encode() in svg and b"fill: #ffffff" in svg, "as matplotlib writes colours"
    assert dark(b"no picture") == b"no picture"


def test_acceptance_by_stage_has_no_point_where_nothing_was_judged(study, summary):
    data = acceptance.frame(study, summary)
    hybrid = data[(data["number"] == 8) & (data["quantity"] == "match_rate")]
    assert list(hybrid["stage"]) == [0, 1, 2, 3, 4]
    assert set(hybrid["n"]) == {24}
    assert set(data["number"]) == {5, 6, 7, 8}


def test_a_stage_between_judged_ones_stays_empty(new_study, summary):
    study = new_study(seeds=2)
    study.stages.loc[study.stages["stage"] == 4, ["match_rate", "accepted_share"]] = None
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
    assert [p["cell"].nunique() for p in pages] == [6, 5], "of about equal width"
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


@pytest.fixture
def mine(entries):
    """Two figures of a user's own, registered for one test: one of one function, and one that raises."""

    @registry.register("figure", "speed-by-calls", title="Speed by calls", needs=("target_calls", "speedup"))
    def speed_by_calls(data, axis):
        """One point per cell."""
        axis.plot(data["target_calls"].astype(float), data["speedup"].astype(float), "o")

    @registry.register("figure", "broken", place=1)
    def broken(material):
        raise KeyError("no such column")
        yield


def test_a_figure_of_one_function_is_drawn_and_one_that_raises_loses_only_itself(mine, study, tmp_path):
    written = write_figures(study, tmp_path, only=["broken", "speed-by-calls", "gamma-traces"], command=COMMAND)
    assert {path.stem for path in written} == {"speed-by-calls", "gamma-traces"}
    assert written.failed == {"broken": "KeyError: 'no such column'"}
    index = json.loads((tmp_path / "index.json").read_text())
    assert [entry["figure"] for entry in index["figures"]] == ["gamma-traces", "speed-by-calls"], "a user's own come last"
    own = index["figures"][1]
    assert own["title"] == "Speed by calls" and own["caption"] == "One point per cell. n = 8 rows."
    assert index["failed"] == {"broken": "KeyError: 'no such column'"}


def test_a_figure_without_its_columns_is_skipped(mine, new_study, tmp_path):
    assert write_figures(new_study(timed=False, seeds=2), tmp_path, only=["speed-by-calls"]) == []


def many(new_study, count: int):
    cells = [("sequential", "sequential", None, 0.0, 1.0, 10.0, 1.0)]
    cells += [
        (f"parallel_v1 γ=2 match_rate τ={i} correct", "parallel_v1", "match_rate", 0.06 - 0.05 * i / count, 1.5, 4.0, 1.2)
        for i in range(1, count)
    ]
    return new_study(tuple(cells), labels=(3,), seeds=1)


@pytest.mark.long
def test_many_cells_make_one_page_that_says_what_it_leaves_out(new_study, tmp_path):
    """Each figure of panels keeps to one page; `every` draws the rest."""
    made = many(new_study, 40)
    summary = summarise(made)
    panels = ["acceptance-by-stage", "gamma-traces", "time-breakdown"]
    written = write_figures(made, tmp_path / "few", summary=summary, only=panels)
    assert [path.stem for path in written if path.suffix == ".pdf"] == panels
    captions = [entry["caption"] for entry in json.loads((tmp_path / "few" / "index.json").read_text())["figures"]]
    assert "Shown: 12 of 39 cells" in captions[0] and "Shown: 12 of 39 cells" in captions[1]
    assert "Shown: 30 of 40 cells" in captions[2]
    whole = write_figures(made, tmp_path / "all", summary=summary, only=["gamma-traces"], every=True)
    assert [path.stem for path in whole if path.suffix == ".pdf"] == [f"gamma-traces{end}" for end in ("", "-2", "-3", "-4")]
    (entry, *_) = json.loads((tmp_path / "all" / "index.json").read_text())["figures"]
    assert "Shown" not in entry["caption"] and entry["command"].endswith("--only gamma-traces --all") and entry["every"]


def test_the_most_telling_cells_are_those_of_the_front_and_both_ends(summary, study, tmp_path):
    material = Material(study, summary, tmp_path)
    chosen = material.telling(summary["cell"].tolist(), 5)
    names = set(summary.set_index("cell").loc[chosen, "name"])
    front = tradeoff.frame(summary)
    assert set(front.loc[front["pareto"], "name"]) <= names and len(chosen) == 5
    assert material.telling(["a", "b"], 5) == ["a", "b"]
