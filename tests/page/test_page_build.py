"""The page as a file: deterministic, self-contained, escaped, small; what it says where something is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from sdvar_exp.cli import main
from sdvar_exp.errors import UserError
from sdvar_exp.report import summarise
from sdvar_exp.report.page import cells, pictures, stages, write, write_page
from sdvar_exp.report.page.markup import environment
from sdvar_exp.report.page.words import another_seed, facts
from sdvar_exp.report.source import read_tables
from sdvar_exp.store.manifest import read_cells
from tests.page.making import HOSTILE, make_study

Made = Callable[..., Path]


class Reader(HTMLParser):
    """Elements with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        self.elements.append((tag, found))
        if tag in ("script", "style"):
            self.scripts.append((found, ""))
        self._open = [tag]

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        else:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = []

    def data(self) -> dict:
        return json.loads(next(text for attrs, text in self.scripts if attrs.get("id") == "data"))


def read(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


def test_equal_studies_give_equal_bytes(made: Made, tmp_path: Path) -> None:
    page = made()
    assert write_page(page.parent, page).read_bytes() == page.read_bytes()
    copy = write_page(page.parent, page.parent / "again.html")
    assert copy.read_bytes() == page.read_bytes()
    copy.unlink()


def test_nothing_is_loaded_from_elsewhere(made: Made) -> None:
    page = read(made())
    for tag, attrs in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attrs.get(name, "")
            assert not re.match(r"(?i)\s*(\w+:)?//|https?:", value), f"<{tag} {name}={value[:60]}>"
            if tag in ("script", "img", "link", "iframe", "object") and value:
                assert value.startswith("data:"), f"<{tag} {name}={value[:60]}> is not inside the file"
        assert "style" not in attrs and not any(name.startswith("on") for name in attrs), (tag, attrs)
    code = "".join(text for attrs, text in page.scripts if attrs.get("type") is None)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|import\(|sendBeacon|eval\(|innerHTML", code)
    assert "@import" not in code and not re.search(r"https?://(?!www\.w3\.org)", code)


def test_the_policy_allows_the_inline_parts_by_hash_and_no_network(made: Made) -> None:
    page = read(made())
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for attrs, text in page.scripts:
        if attrs.get("type") is None:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy


def test_hostile_names_stay_text(made: Made) -> None:
    page = read(made(cells=6, names=("sequential", *HOSTILE), study="a'b"))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("title") == 1 and not [a for t, a in page.elements if t == "img" and a.get("src") == "x"]
    assert sum(1 for attrs, _ in page.scripts if attrs.get("type") is None) == 2, "one style, one script"
    words = "".join(page.words)
    assert all(name in words for name in HOSTILE)
    assert [cell["name"] for cell in page.data()["cells"]] == ["sequential", *HOSTILE]
    assert "note=</script>" in words, "a command line"


def test_data_can_neither_end_their_element_nor_be_misread() -> None:
    hostile = {"</script>": "<!-- \u2028 & ]]>"}
    block = environment().from_string("{{ data|tojson }}")
    text = block.render(data=hostile)
    assert json.loads(text) == hostile and not set("<>&") & set(text)
    with pytest.raises(ValueError):
        block.render(data={"x": float("nan")})


def test_a_part_that_raises_loses_only_itself(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made().parent

    def broken(*_: object) -> str:
        raise KeyError("<script>alert(1)</script>")

    monkeypatch.setattr(write.provenance, "cards", broken)
    monkeypatch.setattr(write.stages, "collect", broken)
    faults: list[str] = []
    page = read(write_page(folder, folder / "partly.html", faults=faults))
    assert [fault.split(":")[0] for fault in faults] == ["the stages", "The cards"]
    assert "The cards could not be made: KeyError" in "".join(page.words) and "cells-table" in str(page.elements)
    assert sum(1 for attrs, _ in page.scripts if attrs.get("type") is None) == 2, "one style, one script"


def test_every_cell_and_number_is_on_the_page(made: Made) -> None:
    path = made()
    page, words = read(path), " ".join("".join(read(path).words).split())
    cells = read_cells(path.parent)
    assert [a["data-cell"] for tag, a in page.elements if tag == "tr" and "data-cell" in a] == list(cells)
    for text in ("n = 8", "95 % upper bound", "another seed", "faster than the baseline", "float32"):
        assert text in words, text
    for link in ("cells/", "tables/samples.csv", "tables/samples.parquet", "ledger", "manifest.json"):
        assert any(link in a.get("href", "") and (path.parent / a["href"]).exists() for t, a in page.elements if t == "a"), link


def test_cells_are_found_by_factors_that_their_names_leave_out(made: Made) -> None:
    page = read(made())
    rows = [a for tag, a in page.elements if tag == "tr" and "data-cell" in a]
    assert [("acceptance=match_rate" in a["data-factors"].split()) for a in rows] == [False, False, True, True]
    assert all(a["data-front"] == "0" for a in rows if a["data-strategy"] == "sequential"), "the baseline is on no front"
    lists = {a["data-factor"] for tag, a in page.elements if tag == "select" and "data-factor" in a}
    assert {"acceptance", "gamma.value"} <= lists and not lists & {"strategy", "mask", "batch"}


def test_times_that_are_not_sound_are_grey_and_no_cell_is_called_best(made: Made) -> None:
    """The cards then say what needs no time; never the draft alone nor the reference."""
    summary = summarise(read_tables(made().parent)).assign(front=False, number=range(1, 5))
    for sound in (True, False):
        judged = summary.assign(sound=pd.array([sound] * 4, dtype="boolean"), band_low=0.95, band_high=1.05)
        rows = cells.table(judged)
        assert rows.count('class="n unsound"') == (0 if sound else 4), "the speed-up of every cell"
        cards = facts(judged)
        assert ("fastest cell whose stages the target verifies" in cards) == sound
        assert ("fewest target calls" in cards) != sound and "least pixel difference of a lossy cell that verifies" in cards
    alone = summary.assign(committed_per_call=0.0, speedup=9.0)
    assert "fastest" not in facts(alone) and "least pixel difference" not in facts(alone), "nothing is verified"


def zooms(page: Reader) -> list[dict[str, str]]:
    return [a for tag, a in page.elements if tag == "img" and a.get("width")]


def test_figures_are_those_of_the_list_in_its_order_svg_before_png(made: Made) -> None:
    page = read(made())
    assert [a["alt"] for a in zooms(page)] == ["Waves & <b>", "Ramp"] and "What waves show." in "".join(page.words)
    assert [a["src"].split(";")[0] for a in zooms(page)] == ["data:image/svg+xml", "data:image/png"]
    links = [a["href"] for tag, a in page.elements if tag == "a" and "figures/" in a.get("href", "")]
    assert links == ["./figures/b-waves.pdf", "./figures/b-waves.svg", "./figures/b-waves.png", "./figures/a-ramp.png"]


@pytest.mark.long
def test_figures_are_drawn_if_there_are_none(tmp_path: Path) -> None:
    folder = make_study(tmp_path, cells=3, labels=(3,), seeds=2, images=False, figures=False)
    page = read(write_page(folder))
    drawn = list((folder / "figures").glob("*.png"))
    assert drawn and len(zooms(page)) == len(drawn)


def test_a_study_without_images_says_so(made: Made) -> None:
    page = read(made(images=False))
    words = " ".join(page.words)
    assert "This study kept no images" in words and "no stage-by-stage pictures" in words
    assert not [a for a, _ in page.scripts if "data-picture" in a]


def test_full_images_of_worst_median_and_best_are_inside(made: Made) -> None:
    page = read(made())
    inside = {a["data-picture"] for a, _ in page.scripts if "data-picture" in a}
    for cell in page.data()["cells"]:
        units = cell["units"]
        order = sorted(range(8), key=lambda i: units["pixel_mae"][i])
        if cell["id"] != cell["baseline"]:
            assert cell["picks"] == {"worst": order[-1], "median": order[4], "best": order[0]}
        for i in cell["picks"].values():
            name = f"{units['label'][i]}_{units['seed'][i]}"
            assert {f"{cell['id']}/{name}", f"{cell['baseline']}/{name}"} <= inside
        assert f"{cell['id']}/0_0_stages" in inside and f"sprite/{cell['id']}" in inside


@pytest.mark.parametrize(("budget", "tile", "units"), [(25_000, 16, 40), (6_000, 16, 9)])
def test_thumbnails_get_smaller_then_fewer(
    budget: int, tile: int, units: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_study(tmp_path, cells=3, seeds=20)
    monkeypatch.setattr(pictures, "SPRITES", budget)
    monkeypatch.setattr(pictures, "FULL", 0)
    monkeypatch.setattr(pictures, "MOST_UNITS", 120)
    monkeypatch.setattr(stages, "BUDGET", 0)
    page = read(write_page(folder))
    cells = page.data()["cells"]
    assert {cell["tile"] for cell in cells} == {tile} and {len(cell["units"]["label"]) for cell in cells} == {units}
    kept = {a["data-picture"] for a, _ in page.scripts if "data-picture" in a}
    assert all(key.startswith("sprite/") for key in kept), "no full image fits into nothing"
    if units < 40:
        assert f"Thumbnails of {3 * units} of 120 images" in " ".join(page.words)
        mae = cells[2]["units"]["pixel_mae"]
        assert max(mae) == pytest.approx(0.02 + 0.019 + 0.006, abs=1e-6) and min(mae) == pytest.approx(0.02, abs=1e-6)


def test_a_page_that_cannot_be_small_is_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "LARGEST", 1000)
    with pytest.raises(UserError, match="at most 0 are allowed"):
        write_page(made().parent, made().parent / "other.html")
    assert not (made().parent / "other.html").exists()


def test_the_verb_writes_where_it_is_told(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "elsewhere" / "page of a study.html"
    out.parent.mkdir()
    assert main(["report", str(made().parent), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"page     {out}  (")
    link = next(a["href"] for t, a in read(out).elements if a.get("href", "").endswith("samples.csv"))
    assert (out.parent / link).is_file(), "links are relative to where the page lies"


@pytest.mark.parametrize(("arguments", "says"), [
    (["nothing"], "there is no study 'nothing'"), (["STUDY", "--out", "."], "--out . is a folder"),
])  # fmt: skip
def test_mistakes_are_one_line(arguments: list[str], says: str, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(made().parent) if word == "STUDY" else word for word in arguments]
    assert main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_other_seeds_of_two_baselines_are_not_pooled() -> None:
    summary = pd.DataFrame({"baseline": ["a", "a", "b"], "noise_pixel_mae": [0.118, 0.118, 0.3]})
    assert another_seed(summary) == "0.118 to 0.300"
    assert another_seed(summary.iloc[:2]) == "0.118"
    assert another_seed(summary.assign(noise_pixel_mae=None)) == ""
